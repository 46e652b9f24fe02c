#!/usr/bin/env bash
# Evaluate a checkpoint with several processes, on GPUs or, where there is none, on the CPU.
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -lt 3 ]; then
  cat >&2 <<'USAGE'
usage: bash tools/dist_evaluate.sh CONFIG CHECKPOINT PROCESSES [ARGUMENT OF tools/evaluate.py ...]

PROCESSES: per machine, one for each GPU. Environment variables:
  NNODES (1)  NODE_RANK (0)  MASTER_ADDR (127.0.0.1)  PORT (29500, on one machine a free one)
  PYTHON (python)
USAGE
  exit 2
fi
exec bash "$TOOLS/_launch.sh" evaluate.py "$3" "$1" "$2" "${@:4}"
