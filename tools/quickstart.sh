#!/usr/bin/env bash
# From nothing to two models that teach each other, on real images:
#
#   bash tools/quickstart.sh               # on the images that the repository carries
#   bash tools/quickstart.sh /my/images  # on a folder of images, with or without class folders
#
# Makes (or reuses) the environment, pretrains, and ends with a table and an image file. Other
# arguments: bash tools/quickstart.sh --help. A call that was stopped continues where it was.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$(bash "$ROOT/tools/setup_env.sh")"
# What to type again, for the message of a run that is interrupted.
export MMMOKD_RERUN="$(printf '%q ' bash "$0" "$@")"
exec "$PYTHON" "$ROOT/tools/quickstart/main.py" "$@"
