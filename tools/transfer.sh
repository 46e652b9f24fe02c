#!/usr/bin/env bash
# From a MOKD checkpoint to a trained and tested classifier, detector or segmentor.
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -lt 3 ]; then
  cat >&2 <<'USAGE'
usage: bash tools/transfer.sh CHECKPOINT BRANCH CONFIG [GPUS] [ARGUMENT OF tools/train.py ...]

CONFIG: of mmpretrain, mmdet or mmseg, one of configs/mokd/benchmarks/ or any other. GPUS: 1 by default (or
none, if there is none). First reports which weights of the branch's teacher the model takes, with the
--cfg-options among the arguments; trains only if it takes all that it needs; then tests the last
checkpoint. Environment variables:
  WORK_DIR (work_dirs/transfer/NAME_OF_CONFIG-BRANCH)  PYTHON (python)
  NETWORK (teacher, or student of a branch without one)
  NNODES, NODE_RANK, MASTER_ADDR, PORT: as tools/dist_train.sh has them
USAGE
  exit 2
fi
# What to type again, for the message of a run that is interrupted.
export MMMOKD_RERUN="$(printf '%q ' bash "$0" "$@")"
checkpoint="$1" branch="$2" config="$3"
shift 3
gpus=1
case "${1:-}" in [0-9]*)
  gpus="$1"
  shift
  ;;
esac
case "$gpus" in *[!0-9]* | 0)
  echo "error: GPUS should be a number from 1 on, not '$gpus'" >&2
  exit 2
  ;;
esac
name="$(basename "$config")"
work_dir="${WORK_DIR:-work_dirs/transfer/${name%.*}-$branch}"
export PYTHON="${PYTHON:-$(command -v python || command -v python3)}"
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

risk=() others=() mode=given changes=() changing=
for argument in "$@"; do
  case "$argument" in
    --resume* | --overwrite) mode=chosen ;;
    *) others+=("$argument") ;;
  esac
  case "$argument" in
    --cfg-options) changing=1 ;;
    --cfg-options=*) changing=1 changes+=("${argument#*=}") ;;
    --allow-code-from-checkpoint) changing='' risk=("$argument") ;;
    --work-dir*)
      echo 'error: name the folder to write to in the variable WORK_DIR' >&2
      exit 2
      ;;
    --*) changing='' ;;
    *) if [ "$changing" ]; then changes+=("$argument"); fi ;;
  esac
done
if [ ${#changes[@]} -gt 0 ]; then changes=(--cfg-options "${changes[@]}"); fi
planned="$("$PYTHON" "$TOOLS/model_converters/check_transfer.py" "$checkpoint" "$branch" "$config" \
  ${NETWORK:+--network "$NETWORK"} ${risk[@]+"${risk[@]}"} ${changes[@]+"${changes[@]}"})"
options=()
while IFS= read -r line; do
  case "$line" in model.*=*) options+=("$line") ;; esac # libraries print lines of their own
done <<<"$planned"

run() { # run TOOL ARGUMENT...: train.py or test.py, in one process or several
  if [ "$gpus" -gt 1 ]; then bash "$TOOLS/_launch.sh" "$1" "$gpus" "${@:2}"; else "$PYTHON" "$TOOLS/$1" "${@:2}"; fi
}

# The same call again continues where it was, or tests again what it has; no other one is mixed with it.
record="$work_dir/.transfer_call"
call="$(cksum <"${checkpoint/#\~/$HOME}") $branch ${NETWORK:-} $config ${others[*]-}"
if [ "$mode" = given ] && [ -f "$work_dir/last_checkpoint" ]; then
  if [ "$(cat "$record" 2>/dev/null)" != "$call" ]; then
    echo "error: $work_dir holds another training: name another folder in the variable WORK_DIR," \
      'resume that training with --resume, or remove it and start from scratch with --overwrite' >&2
    exit 2
  fi
  set -- "$@" --resume
fi
# Where this cannot be written, train.py says so.
{ mkdir -p "$work_dir" && printf '%s\n' "$call" >"$record"; } 2>/dev/null || true
run train.py "$config" --work-dir "$work_dir" "$@" --cfg-options "${options[@]}"
trained="$(cat "$work_dir/last_checkpoint")"
echo "== testing $trained"
# With the config that the run wrote, which has the options of the command line.
run test.py "$work_dir/$name" "$trained" --work-dir "$work_dir" --out "$work_dir/metrics.json" \
  ${risk[@]+"${risk[@]}"}
echo "trained: $trained"
echo "metrics: $work_dir/metrics.json"
