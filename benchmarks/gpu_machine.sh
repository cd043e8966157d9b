#!/usr/bin/env bash
# All that is to be known of a machine with a card and no network, on which Python 3.12 and torch are there.
#
#   benchmarks/gpu_machine.sh prepare FOLDER            with a network: wheels of what such a machine lacks, into FOLDER
#   benchmarks/gpu_machine.sh prepare FOLDER --all      the same with all that ppfl needs but torch and numpy: 150 MB
#   benchmarks/gpu_machine.sh run FOLDER OUT [STEP…]    there: everything, within 12 minutes; what was said is in OUT
#
# STEP is setup, tests or benchmark; without one all three are done. A step that fails keeps no other from being tried.
# PYTHON names the interpreter that has torch; default: python3. It may be that of an environment itself.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
LACKING=(pydantic pydantic_core annotated-types typing-inspection typing_extensions h5netcdf h5py mpi4py mpich
  pytest pytest-xdist execnet iniconfig pluggy packaging hypothesis sortedcontainers click rich safetensors xarray)
OTHERS=(numba llvmlite scipy scikit-learn joblib threadpoolctl pandas python-dateutil tzdata six Jinja2 MarkupSafe PyYAML
  matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing markdown-it-py mdurl Pygments attrs)
MOST_MIB=64
SECONDS_OF_TESTS=180
SECONDS_OF_BENCHMARK=490

prepare() {
  local folder=$1 names=("${LACKING[@]}") failed=()
  [ "${2:-}" = --all ] && names+=("${OTHERS[@]}")
  mkdir -p "$folder"
  local platforms=()
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux_2_5; do
    platforms+=(--platform "${platform}_x86_64")
  done
  # one by one: what cannot be had is named, and may be on the machine
  for name in "${names[@]}"; do
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --python-version 3.12 --implementation cp "${platforms[@]}" \
      -c "$ROOT/constraints.txt" -d "$folder" "$name" || failed+=("$name")
  done
  (cd "$folder" && ls -l -- *.whl | awk '{printf "%8.1f MiB  %s\n", $5 / 2^20, $9}')
  local mib=$(($(du -sk "$folder" | cut -f1) / 1024))
  echo "$mib MiB in $folder; at most $MOST_MIB are wanted"
  [ ${#failed[@]} -eq 0 ] || echo "not found: ${failed[*]}" >&2
  [ ${#failed[@]} -eq 0 ] && { [ "$mib" -le $MOST_MIB ] || [ "${2:-}" = --all ]; }
}

setup() {
  local folder=$1 out=$2 site theirs names
  rm -rf "$ENVIRONMENT"
  "$PYTHON" -m venv --without-pip "$ENVIRONMENT" || return
  # not --system-site-packages alone: where PYTHON is that of an environment, this would be the site of its base
  site=$("$BIN/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  theirs=$("$PYTHON" -c 'import site, sys, sysconfig
print(*dict.fromkeys([sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()]), sep="\n")')
  echo "$theirs" > "$site/of_this_machine.pth"
  # what is there stays; of pydantic and its core both are installed or none, since their versions belong together
  names=$("$BIN/python" - "$folder" << 'END'
import sys
from importlib import metadata
from pathlib import Path
names = {wheel.name.split("-")[0].replace("_", "-") for wheel in Path(sys.argv[1]).glob("*.whl")}
there = {(one.metadata["Name"] or "").lower().replace("_", "-") for one in metadata.distributions()}
lacking = names - there
print(*lacking, *(["pydantic", "pydantic-core"] if lacking & {"pydantic", "pydantic-core"} else []))
END
  )
  [ -z "$names" ] || "$PYTHON" -m pip --python "$BIN/python" install --quiet --disable-pip-version-check --no-index \
    --no-deps --ignore-installed --find-links "$folder" $names || echo "not installed: one of $names" >&2
  "$BIN/python" - << 'END' | tee "$out/machine.txt"
import importlib, platform, torch
print("Python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
for number in range(torch.cuda.device_count()):
    print("card", number, torch.cuda.get_device_properties(number))
for name in ("pydantic", "h5py", "h5netcdf", "numba", "numpy", "xarray", "sklearn", "scipy", "pytest", "hypothesis", "mpi4py"):
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", "?"))
    except Exception as error:
        print(name, "DOES NOT LOAD:", error)
END
}

tests() {
  local out=$1 files
  files=$(cd "$ROOT" && grep -rlE 'mark\.cuda' --include='test_*.py' tests)
  # warnings of versions that we do not pin are no failures; that a kernel is not deterministic has a test
  (cd "$ROOT" && timeout -k 10 $SECONDS_OF_TESTS "$BIN/python" -m pytest -q -m cuda -p no:cacheprovider \
    -W default --junitxml "$out/tests.xml" $files) 2>&1 | tee "$out/tests.txt"
}

benchmark() {
  local out=$1
  (cd "$ROOT" && timeout -k 10 $SECONDS_OF_BENCHMARK "$BIN/python" -m benchmarks gpu --json "$out/gpu.json" \
    ${BENCHMARK_OPTIONS:-} > "$out/gpu.md" 2> "$out/gpu.err")
  local code=$?
  cat "$out/gpu.md"
  tail -n 5 "$out/gpu.err" >&2
  return $code
}

run() {
  local folder out failed=0
  mkdir -p "$2"
  folder=$(cd "$1" && pwd) && out=$(cd "$2" && pwd) || return
  shift 2
  [ $# -gt 0 ] || set -- setup tests benchmark
  ENVIRONMENT=${TMPDIR:-/tmp}/ppfl-gpu-machine
  BIN=$ENVIRONMENT/bin
  export PATH="$BIN:$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONPATH="$ROOT" PYTHONUNBUFFERED=1
  for step in "$@"; do
    local began=$SECONDS library
    # mpi4py may be that of the machine, which would not look for a library here; wheels have no links, and the name
    # without a version is a file without content
    for library in "$ENVIRONMENT"/lib/libmpi.so.*; do
      [ -s "$library" ] && export MPI4PY_LIBMPI=$library && break
    done
    case $step in
      setup) setup "$folder" "$out" ;;
      tests) tests "$out" ;;
      benchmark) benchmark "$out" ;;
      *) echo "unknown step $step; allowed: setup, tests, benchmark" >&2; return 2 ;;
    esac || failed=1
    echo "$step: $((SECONDS - began)) s" | tee -a "$out/steps.txt"
  done
  return $failed
}

case "${1:-}" in
  prepare) [ $# -ge 2 ] && prepare "${@:2}" ;;
  run) [ $# -ge 3 ] && run "${@:2}" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
