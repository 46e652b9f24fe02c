#!/usr/bin/env bash
# Make, or reuse, the virtual environment that this repository's scripts run in:
#
#   PYTHON="$(bash tools/setup_env.sh [EXTRA ...])"
#
# Progress goes to stderr; the one line on stdout is the environment's Python. EXTRA names further
# files of requirements/ (tests, det, seg, ops, optional, loggers, docs). What needs mmdet or mmseg (det, seg,
# tests) gets mmcv with its compiled operators: tools/build_mmcv_ops.sh. Nothing is installed twice: a
# stamp in the environment tells which requirements it has, and is written only when all of them are in.
#
#   MMMOKD_VENV    folder of the environment (default: .venv in the repository)
#   MMMOKD_PYTHON  Python that a new environment is made with (default: the first that fits of
#                  python3, python3.11, python3.12, python3.13, python3.10)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MMMOKD_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
PYTHON="$VENV/bin/python"
LOG="$VENV/setup.log"
PINS="$ROOT/requirements/constraints.txt"
MIN_MINOR=10 # of Python 3
MAX_MINOR=13
FREE_GB=8

say() { echo "[setup] $*" >&2; }
die() {
  say "error: $*"
  exit 1
}

fits() { # does this Python run, have a fitting version, and venv?
  "$1" -c "import sys, venv, ensurepip; assert (3, $MIN_MINOR) <= sys.version_info[:2] <= (3, $MAX_MINOR)" \
    >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${MMMOKD_PYTHON:-}" ]; then
    fits "$MMMOKD_PYTHON" && echo "$MMMOKD_PYTHON" && return
    die "MMMOKD_PYTHON=$MMMOKD_PYTHON does not fit: Python 3.$MIN_MINOR to 3.$MAX_MINOR with venv is needed"
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python3.10; do
    fits "$candidate" && echo "$candidate" && return
  done
  die "no Python 3.$MIN_MINOR to 3.$MAX_MINOR with venv found ($(python3 -V 2>&1 || true) is python3 here)." \
    "Install one (Debian and Ubuntu: apt-get install python3 python3-venv) or name it in MMMOKD_PYTHON"
}

make_venv() {
  local base free
  if [ -e "$VENV" ] && [ ! -e "$VENV/.mmmokd" ] && [ -n "$(ls -A "$VENV")" ]; then
    die "$VENV exists, was not made by this script, and has no Python 3.$MIN_MINOR to 3.$MAX_MINOR:" \
      'name another folder in MMMOKD_VENV'
  fi
  base="$(find_python)"
  rm -rf "$VENV"
  mkdir -p "$VENV"
  touch "$VENV/.mmmokd" # first: only what has this mark may be removed again
  free=$(($(df -Pk "$VENV" | awk 'NR == 2 {print $4}') / 1024 / 1024))
  [ "$free" -ge "$FREE_GB" ] || say "warning: $free GB free at $VENV, about $FREE_GB GB are needed"
  say "new environment: $VENV ($("$base" -V))"
  "$base" -m venv "$VENV" >&2 || die "'$base -m venv $VENV' failed"
}

beat() { # every 30 s, while a step takes longer: since when, and what pip is at
  local start=$SECONDS doing
  while sleep 3 >/dev/null 2>&1; do
    [ $(((SECONDS - start) % 30)) -lt 3 ] && [ $((SECONDS - start)) -ge 30 ] || continue
    doing="$(grep -E '^ *(Collecting|Downloading|Building|Preparing|Installing) ' "$LOG" | tail -n 1 | cut -c 1-90 || true)"
    say "  $((SECONDS - start)) s: ${doing#"${doing%%[! ]*}"}"
  done
}

stop_beat() {
  [ -z "$BEAT" ] || { kill "$BEAT" && wait "$BEAT"; } 2>/dev/null || true
  BEAT=''
}

step() { # step TEXT PIP-ARGUMENTS...
  local text="$1" start=$SECONDS done=0
  shift
  say "$text ..."
  echo "== $text" >>"$LOG"
  # Holds neither stdout, which whoever called waits for, nor the lock.
  beat >&2 9>&- &
  BEAT=$!
  "$PYTHON" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    -c "$PINS" "$@" >>"$LOG" 2>&1 </dev/null || done=$?
  stop_beat
  if [ "$done" -ne 0 ]; then
    tail -n 15 "$LOG" >&2
    die "'$text' failed (all of pip's output: $LOG). The same command can be given again: what is installed stays"
  fi
  say "  $((SECONDS - start)) s"
}

fingerprint() { # fingerprint FILE...: of these requirements, for this Python and this place
  (cd "$ROOT" && {
    "$PYTHON" -c 'import sys; print(sys.version)'
    echo "$ROOT"
    cat "$@" requirements/constraints.txt setup.py mmmokd/version.py
  }) | cksum
}

stamped() { [ -f "$VENV/.stamp-$1" ] && [ "$(cat "$VENV/.stamp-$1")" = "$2" ]; }

install_base() {
  local mark
  mark="$(fingerprint requirements/runtime.txt requirements/mminstall.txt)"
  ! stamped base "$mark" || return 0
  rm -f "$VENV"/.stamp-*
  say "about 3 GB to download and $FREE_GB GB of disk: 1 to 3 minutes on a fast line (all of pip's output: $LOG)"
  step 'PyTorch (the longest part)' torch torchvision setuptools wheel
  step 'runtime requirements' -r "$ROOT/requirements/runtime.txt"
  # Built apart from torch, so without mmcv.ops, which pretraining does not need and which take long
  # to compile. pip's cache knows a wheel by its version alone: keep this one out of it, and take
  # none from it that was built for another torch.
  step 'mmcv (built without ops)' --no-cache-dir --no-deps \
    "$(grep '^onedl-mmcv' "$ROOT/requirements/mminstall.txt")"
  step 'mmengine and mmpretrain' -r "$ROOT/requirements/mminstall.txt"
  # OpenCV's usual build loads libGL, which a machine without a screen may not have.
  "$PYTHON" -c 'import cv2' >/dev/null 2>&1 ||
    step 'OpenCV without windows' --no-deps --force-reinstall opencv-python-headless
  step 'mmmokd' --no-deps --no-build-isolation -e "$ROOT"
  say 'checking ...'
  "$PYTHON" -W ignore -c "
import shutil
import mmcv, mmengine, mmmokd, mmpretrain, torch
device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'no GPU: runs on the CPU'
if shutil.which('nvidia-smi') and not torch.cuda.is_available():
    device += ' (there is an NVIDIA driver: too old for this PyTorch?)'
print(f'[setup] torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__},',
      f'mmpretrain {mmpretrain.__version__}, mmmokd {mmmokd.__version__}; {device}')
" >&2 || die "the installed packages do not import (see above): delete $VENV and try again"
  echo "$mark" >"$VENV/.stamp-base"
}

install_extra() {
  local file="requirements/$1.txt" mark
  [ -f "$ROOT/$file" ] || die "no such requirements: $file"
  mark="$(fingerprint requirements/*.txt)"
  ! stamped "$1" "$mark" || return 0
  step "$1 requirements" -r "$ROOT/$file"
  echo "$mark" >"$VENV/.stamp-$1"
}

install_ops() {
  local mark wheel
  mark="$(fingerprint requirements/ops.txt)"
  ! stamped ops "$mark" || return 0
  step 'what compiles operators' -r "$ROOT/requirements/ops.txt"
  wheel="$(PYTHON="$PYTHON" bash "$ROOT/tools/build_mmcv_ops.sh")" || exit 1
  step 'mmcv with operators' --no-deps --force-reinstall "$wheel"
  "$PYTHON" -W ignore -c 'import mmcv.ops' || die "mmcv's operators do not load (see above)"
  echo "$mark" >"$VENV/.stamp-ops"
}

START=$SECONDS
BEAT=''
trap stop_beat EXIT
mkdir -p "$(dirname "$VENV")"
if command -v flock >/dev/null; then # two calls at once: the second waits, then finds all in place
  exec 9>"$VENV.lock"
  flock -n 9 || {
    say "another call is at work on $VENV: waiting for its end"
    flock 9
  }
fi
if ! fits "$PYTHON"; then make_venv; fi
install_base
for extra in "$@"; do
  install_extra "$extra"
  case "$extra" in det | seg | tests | ops) install_ops ;; esac
done
[ $((SECONDS - START)) -lt 5 ] || say "ready after $((SECONDS - START)) s"
echo "$PYTHON"
