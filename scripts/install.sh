#!/bin/sh
# Creates a virtual environment and installs fairseq_el with everything it needs.
#
#   scripts/install.sh PYTHON VENV
#   scripts/install.sh --print-torch PYTHON    # only says which torch it would install, and why
#   scripts/install.sh --native VENV           # only installs fairseq_el again, which compiles its C++ extension
#
# Needs Python 3.8 to 3.13 and a C++ compiler. scripts/choose_torch.py chooses the torch that has kernels for the cards
# that nvidia-smi shows (without a card: torch==2.13.0, or torch==1.12.1 before Python 3.11). TORCH names another one,
# such as TORCH=torch==2.10.0; pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) work as usual.
#
# fairseq is installed without its declared dependencies and without build isolation: otherwise pip would download a
# second torch to compile its extensions, and a torchaudio that nothing here imports.
set -eu
if [ "$#" -ne 2 ]; then
    echo 'usage: scripts/install.sh PYTHON VENV | --print-torch PYTHON | --native VENV' >&2
    exit 2
fi

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        echo "scripts/install.sh: error: 'pip $*' failed; the whole log is $log" >&2
        exit 1
    }
}

install_fairseq_el() {
    log=$venv/native.log
    : >"$log"
    pip install -v --no-build-isolation --no-deps --editable . # pip shows what setup.py says with -v only
    why=$(sed -n 's/^ *\(fairseq_el is installed without its native code: \)/\1/p' "$log" | tail -n 1)
    [ -z "$why" ] || echo "Warning: $why (log: $log)" >&2
}

if [ "$1" = --native ]; then
    venv=$2
    echo "Compiling the native code of $venv (up to two minutes; the log is $venv/native.log)"
    install_fairseq_el
    exit
fi
if [ "$1" = --print-torch ]; then
    python=$2
else
    python=$1
    venv=$2
fi

minor=$("$python" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)') || {
    echo "scripts/install.sh: error: '$python' does not run; choose a Python, for example: make demo PYTHON=python3.11" >&2
    exit 1
}
if [ "$minor" -lt 8 ] || [ "$minor" -gt 13 ]; then
    echo "scripts/install.sh: error: fairseq needs Python 3.8 to 3.13, but '$python' is" \
        "$("$python" -V 2>&1); choose another one, for example: make demo PYTHON=python3.11" >&2
    exit 1
fi
torch=$("$python" -I "$(dirname "$0")/choose_torch.py" "${TORCH:-}")
if [ "$1" = --print-torch ]; then
    echo "$torch"
    exit
fi
if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    echo "scripts/install.sh: error: fairseq compiles C++ extensions, but there is no compiler '${CXX:-c++}';" \
        "install one (Debian: apt-get install build-essential python3-dev) or set CXX" >&2
    exit 1
fi

echo "Installing into $venv (three to eight minutes, once; the log is $venv/install.log)"
"$python" -m venv "$venv"
log=$venv/install.log

if [ "$minor" -ge 11 ]; then
    pip install --upgrade 'pip>=24.1' 'setuptools>=70' wheel
    numpy='numpy<2' # fairseq's language models need it
    [ "$minor" -lt 13 ] || numpy=numpy
    pip install "$torch" "$numpy" 'cython>=3' ninja
    pip install 'hydra-core==1.3.2' 'omegaconf==2.3.0' bitarray cffi packaging regex sacrebleu scikit-learn tqdm
    pip install --no-build-isolation --no-deps 'fairseq-fixed==0.12.3.1'
    # For tests of fairseq-el convert strip --merge; by itself, as fairseq imports it wherever it can, and it warns.
    pip install --no-build-isolation --no-deps --target "$venv/fairscale" fairscale==0.4.13
    pip install 'transformers>=5,<6' safetensors "$numpy" # tests of fairseq-el convert from-hf and to-hf
    [ "$minor" -gt 12 ] || pip install 'ray[data]>=2.10' 'pyarrow<20' "$numpy" # tests of fairseq-el generate --engine ray
else
    pip install --upgrade 'pip<24.1' 'setuptools<70' wheel # newer pip refuses omegaconf 2.0
    pip install 'numpy<1.24' cython
    # Before torch: beside it, fairseq's setup.py compiles extensions whose sources are not in fairseq's archive.
    pip install --no-build-isolation --no-deps 'fairseq==0.12.2'
    pip install "$torch" 'numpy<1.24'
    pip install 'hydra-core>=1.0.7,<1.1' 'omegaconf<2.1' bitarray cffi regex sacrebleu tqdm
fi
pip install hypothesis matplotlib mypy pytest pytest-xdist rouge-score ruff sentencepiece tabulate
install_fairseq_el
echo "Installed: $("$venv/bin/python" -c '
import fairseq, platform, torch
print(f"Python {platform.python_version()}, torch {torch.__version__}, fairseq {fairseq.__version__}")' 2>/dev/null)"
