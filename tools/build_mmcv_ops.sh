#!/usr/bin/env bash
# Build a wheel of mmcv with its compiled operators (mmcv.ops), which mmdet and mmseg need, or find
# the one built before:
#
#   WHEEL="$(bash tools/build_mmcv_ops.sh)"
#
# Progress goes to stderr; the one line on stdout is the wheel. It is built against the PyTorch of
# the environment, with CUDA where that PyTorch sees a GPU and a CUDA compiler of its version is
# there, else for the CPU. Wheels are kept in folders named after mmcv, PyTorch, Python, CUDA and
# architecture: pip's own cache knows a wheel by its version alone and would hand out one that was
# built for another PyTorch, or without operators.
#
#   PYTHON         Python with torch, ninja, psutil, setuptools and wheel (default: python). They are
#                  in the environment of tools/setup_env.sh, which calls this for det, seg and tests
#   MMMOKD_WHEELS  folder of the wheels (default: ~/.cache/mmmokd/wheels)
#   MMMOKD_CUDA    0: for the CPU in any case; 1: with CUDA, or an error (default: decides)
#   MAX_JOBS       compilers at a time (default: one a core, and one for each 2 GB of memory)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$(command -v python || command -v python3)}"
WHEELS="${MMMOKD_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/mmmokd/wheels}"
MMCV="$(grep '^onedl-mmcv==' "$ROOT/requirements/constraints.txt")"
FILES=78 # to compile for the CPU, and the seconds of one core that each takes
SECONDS_A_FILE=11

say() { echo "[ops] $*" >&2; }
die() {
  say "error: $*"
  exit 1
}

choose_cuda() { # sets CUDA: 'cpu', or for example 'cu130-sm90', and WHY; and BASE, the name so far
  local found nvcc_version
  found="$("$PYTHON" -c "
import platform, sys
import ninja, psutil, setuptools, torch, wheel
gpus = range(torch.cuda.device_count()) if torch.version.cuda and torch.cuda.is_available() else ()
archs = sorted({'sm%d%d' % torch.cuda.get_device_capability(i) for i in gpus})
python = f'cp{sys.version_info[0]}{sys.version_info[1]}_{platform.machine()}'
print(torch.version.cuda or 'none', '-'.join(archs) or 'none', f'torch-{torch.__version__}_{python}')")" ||
    die "$PYTHON lacks one of torch, ninja, psutil, setuptools, wheel: pip install -r requirements/ops.txt"
  read -r TORCH_CUDA ARCH BASE <<<"$found"
  nvcc_version="$("${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p' || true)"
  CUDA=cpu
  if [ "${MMMOKD_CUDA:-}" = 0 ]; then
    WHY='MMMOKD_CUDA=0'
  elif [ "$ARCH" = none ]; then
    WHY='no GPU that PyTorch can use'
  elif [ -z "$nvcc_version" ]; then
    WHY='there is a GPU, but no CUDA compiler (nvcc): detectors will train on the CPU only'
  elif [ "${nvcc_version%%.*}" != "${TORCH_CUDA%%.*}" ]; then
    WHY="there is a GPU, but nvcc is of CUDA $nvcc_version and PyTorch of $TORCH_CUDA: detectors will train on the CPU only"
  else
    CUDA="cu${TORCH_CUDA//./}-$ARCH"
    WHY="found a GPU ($ARCH) and CUDA $nvcc_version"
  fi
  if [ "${MMMOKD_CUDA:-}" = 1 ] && [ "$CUDA" = cpu ]; then die "MMMOKD_CUDA=1, but $WHY"; fi
}

build() { # build FOLDER: the wheel, in the folder or, where it fails, not at all
  local part jobs memory_gb start=$SECONDS log
  memory_gb="$(awk '/MemAvailable/ {print int($2 / 1024 / 1024)}' /proc/meminfo 2>/dev/null || echo 4)"
  jobs="$(nproc 2>/dev/null || sysctl -n hw.ncpu)"
  if [ "$jobs" -gt $((memory_gb / 2)) ]; then jobs=$((memory_gb / 2 > 0 ? memory_gb / 2 : 1)); fi
  jobs="${MAX_JOBS:-$jobs}"
  say "compiling the operators of $MMCV, $NAME ($WHY)"
  say "$jobs compilers: about $(awk "BEGIN {print int($FILES * $SECONDS_A_FILE / $jobs / 60) + 1}")" \
    "minutes for the CPU, with CUDA several times that. It is done once: the wheel is kept in $1"
  mkdir -p "$(dirname "$1")"
  part="$1.part$$"
  log="$1.log"
  rm -rf "$part"
  # shellcheck disable=SC2064 # the folder's name of now
  trap "rm -rf '$part'" EXIT
  local env=(MMCV_WITH_OPS=1 MAX_JOBS="$jobs")
  if [ "$CUDA" = cpu ]; then env+=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=''); else env+=(FORCE_CUDA=1); fi
  # Holds neither stdout, which whoever called waits for, nor the locks.
  (while sleep 60 >/dev/null 2>&1; do say "  $(((SECONDS - start) / 60)) min"; done) >&2 8>&- 9>&- &
  local beat=$!
  # shellcheck disable=SC2064
  trap "rm -rf '$part'; kill $beat 2>/dev/null || true" EXIT
  if ! env "${env[@]}" "$PYTHON" -m pip wheel --disable-pip-version-check --no-input --no-cache-dir \
    --no-build-isolation --no-deps --no-binary onedl-mmcv --wheel-dir "$part" "$MMCV" \
    >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    die "compiling failed (all of its output: $log). A C++ compiler is needed (Debian: apt-get install g++)"
  fi
  { kill "$beat" && wait "$beat"; } 2>/dev/null || true
  "$PYTHON" -c "
import sys, zipfile
names = zipfile.ZipFile(sys.argv[1]).namelist()
sys.exit(not any(name.startswith('mmcv/_ext.') for name in names))" "$part"/*.whl ||
    die "the wheel came out without operators (all of the compiler's output: $log)"
  rm -rf "$1"
  mv "$part" "$1"
  say "built in $((SECONDS - start)) s"
}

choose_cuda
NAME="${MMCV/==/-}_${BASE}_$CUDA"
FOLDER="$WHEELS/$NAME"
mkdir -p "$WHEELS"
if command -v flock >/dev/null; then # two calls at once: the second waits, then finds the wheel
  exec 8>"$FOLDER.lock"
  flock 8
fi
if compgen -G "$FOLDER/*.whl" >/dev/null; then say "found $FOLDER"; else build "$FOLDER"; fi
echo "$FOLDER"/*.whl
