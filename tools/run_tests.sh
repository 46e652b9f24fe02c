#!/usr/bin/env bash
# Run the test suite in the repository's environment (made on the first call):
#
#   bash tools/run_tests.sh [PYTEST-ARGUMENT ...]
#
# Without a path among the arguments, all of tests/ runs. Ends with pytest's exit status.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="$(bash tools/setup_env.sh tests)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny tensors: more threads only wait for each other

paths=(tests)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then paths=(); fi
done
exec "$PYTHON" -m pytest ${paths[@]+"${paths[@]}"} "$@"
