#!/usr/bin/env bash
# Train on a slurm cluster.
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -lt 4 ]; then
  cat >&2 <<'USAGE'
usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENT OF tools/train.py ...]

Environment variables:
  GPUS (8)  GPUS_PER_NODE (8)  CPUS_PER_TASK (5)  SRUN_ARGS (none)  PYTHON (python)
USAGE
  exit 2
fi
# What to type again, for the message of a run that is interrupted.
export MMMOKD_COMMAND="$(printf '%q ' bash "$0" "$@")"
arguments=("$3" --work-dir="$4" "${@:5}")
read -r -a srun_args <<<"${SRUN_ARGS:-}"

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec srun --partition="$1" --job-name="$2" \
  --gres=gpu:"${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" \
  --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
  "${PYTHON:-python}" -u "$TOOLS/train.py" "${arguments[@]}" --launcher slurm
