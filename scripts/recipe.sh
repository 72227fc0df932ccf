#!/bin/sh
# Runs an experiment from raw text to scores: download, preprocess, generate, score. Steps that are done are skipped.
#
#   scripts/recipe.sh CONFIG [WORK]
#
# CONFIG is a YAML file such as configs/cnndm.yaml, WORK the directory of its files (default: recipes/cnndm).
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1
name=$(basename "$config")
work=${2:-recipes/${name%.*}}
bin=${FAIRSEQ_BIN:-} # where fairseq-el is, with a slash at the end; default: on PATH

for step in download preprocess generate score; do
    "${bin}fairseq-el" recipe "$step" "$config" --work "$work"
done
