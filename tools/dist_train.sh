#!/usr/bin/env bash
# Train with several processes, on GPUs or, where there is none, on the CPU.
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -lt 2 ]; then
  cat >&2 <<'USAGE'
usage: bash tools/dist_train.sh CONFIG PROCESSES [ARGUMENT OF tools/train.py ...]

PROCESSES: per machine, one for each GPU. Environment variables:
  NNODES (1)  NODE_RANK (0)  MASTER_ADDR (127.0.0.1)  PORT (29500, on one machine a free one)
  PYTHON (python)
USAGE
  exit 2
fi
# What to type again, for the message of a run that is interrupted.
export MMMOKD_COMMAND="$(printf '%q ' bash "$0" "$@")"
exec bash "$TOOLS/_launch.sh" train.py "$2" "$1" "${@:3}"
