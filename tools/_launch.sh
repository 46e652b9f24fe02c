#!/usr/bin/env bash
# _launch.sh TOOL PROCESSES ARGUMENT...: run a tool of this folder under torchrun. For dist_*.sh.
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
case "$2" in '' | *[!0-9]*)
  echo "error: the number of processes should be a number, not '$2'" >&2
  exit 2
  ;;
esac

if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  rendezvous=(--standalone) # takes a free port: several runs fit on one machine
else
  rendezvous=(
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}"
  )
fi
PYTHON="${PYTHON:-$(command -v python || command -v python3)}"
PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" "$TOOLS/_launch.py" \
  "${rendezvous[@]}" --nproc_per_node="$2" "$TOOLS/$1" "${@:3}" --launcher pytorch
