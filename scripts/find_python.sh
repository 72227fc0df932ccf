#!/bin/sh
# Prints the first Python of the given versions that runs: on PATH, or one that pyenv has installed.
#
#   scripts/find_python.sh 3.10 3.9 3.8
for version in "$@"; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            echo "$candidate"
            exit 0
        fi
    done
done
