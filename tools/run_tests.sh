#!/usr/bin/env bash
# Run the test suite in the repository's environment (made on the first call):
#
#   bash tools/run_tests.sh [PYTEST-ARGUMENT ...]
#
# Without a path among the arguments all of tests/ runs, in several processes. Proofs that take minutes
# are left out: add -m long to run those alone. Ends with pytest's exit status.
#
#   MMMOKD_TEST_WORKERS  processes (default: one per core, 4 at most)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="$(bash tools/setup_env.sh tests)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny tensors: more threads only wait for each other

cores="$("$PYTHON" -c 'import os; print(min(len(os.sched_getaffinity(0)), 4))' 2>/dev/null || echo 2)"
# A file's tests share what they have built, so they stay together.
paths=(tests -n "${MMMOKD_TEST_WORKERS:-$cores}" --dist loadfile)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then paths=(); fi
done
exec "$PYTHON" -m pytest ${paths[@]+"${paths[@]}"} "$@"
