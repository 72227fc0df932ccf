#!/bin/sh
# Runs the tests of native code with GCC's address and undefined-behaviour sanitizers, in a copy of the sources.
#
#   scripts/sanitize.sh [SCRATCH [PYTEST-ARGUMENT...]]
#
# PYTHON is the Python of an environment with everything in it (default: .venv/bin/python). SCRATCH (default: a new
# directory, which is removed) keeps what is compiled. It fails on a report of a sanitizer and on a test that fails.
# Compiling takes minutes. FAIRSEQ_EL_CASES (default: 3) is a tenth of the cases of each random comparison.
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
if [ "$#" -gt 0 ]; then
    scratch=$(realpath "$1")
    shift
else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
fi
CXX=${CXX:-g++}
# setuptools compiles C++ with CC and CFLAGS, or with CXX and CXXFLAGS, as its version has it; torch mixes them.
CC=$CXX
# -g is for setup.py, which otherwise adds -g0; -g1, lines without variables, takes the compiler less time and memory.
CFLAGS="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -g1"
CXXFLAGS=$CFLAGS
LDFLAGS=$CFLAGS
FAIRSEQ_EL_CASES=${FAIRSEQ_EL_CASES:-3}
export CC CFLAGS CXX CXXFLAGS LDFLAGS FAIRSEQ_EL_CASES
preload=
for library in libasan.so libubsan.so libstdc++.so; do # libstdc++, as Python itself does not load it at the start
    path=$("$CXX" -print-file-name="$library")
    if [ "$path" = "$library" ]; then
        echo "scripts/sanitize.sh: error: GCC with $library is needed, but $CXX has none; set CXX" >&2
        exit 1
    fi
    preload="$preload $(realpath "$path")"
done

mkdir -p "$scratch"
rm -rf "$scratch/fairseq_el" "$scratch/tests" "$scratch/reports"
cp -R setup.py pyproject.toml README.md fairseq_el tests "$scratch"
rm -f "$scratch"/fairseq_el/_native-*
mkdir "$scratch/reports"
cd "$scratch"

"$python" setup.py -q build_ext --inplace
ls fairseq_el/_native-* >/dev/null # setup.py itself does not fail where compiling does

if [ "$#" -eq 0 ]; then
    set -- tests/native
    for file in tests/generation/test_native*.py; do
        [ ! -e "$file" ] || set -- "$@" "$file"
    done
fi
status=0
run() {
    LD_PRELOAD=$preload \
        ASAN_OPTIONS="detect_leaks=0:log_path=$scratch/reports/asan" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$scratch/reports/ubsan" \
        OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" FAIRSEQ_EL_NATIVE=1 "$python" "$@" || status=$?
}
# Where the extension can't be loaded, its tests are skipped.
run -c 'import sys; from fairseq_el import native; sys.exit(native.extension() is None and "there is no extension")'
[ "$status" -ne 0 ] || run -m pytest -q "$@"
for report in reports/*; do
    [ -e "$report" ] || continue
    cat "$report" >&2
    status=1
done
[ "$status" -ne 0 ] || echo 'No report of a sanitizer.'
exit "$status"
