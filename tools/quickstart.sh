#!/usr/bin/env bash
# From nothing to two pretrained models that teach each other, on real images:
#
#   bash tools/quickstart.sh             # on the images in the repository
#   bash tools/quickstart.sh /my/images  # on a folder of images, with or without class folders
#
# Makes (or reuses) the environment, pretrains, and ends with a table and an image file. The same
# call again resumes a quick start that was stopped, and shows the result of a finished one.
# Other arguments: bash tools/quickstart.sh --help.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$(bash "$ROOT/tools/setup_env.sh")"
# What to type again, for the message of a run that is interrupted.
export MMMOKD_RERUN="$(printf '%q ' bash "$0" "$@")"
exec "$PYTHON" "$ROOT/tools/quickstart/main.py" "$@"
