#!/bin/sh
# Trains a small Transformer language model on plain text, one sentence per line, with stock fairseq-train.
#
#   scripts/train_language_model.sh TRAIN.txt TEST.txt DIRECTORY [any option of fairseq-train]
#
# The last tenth of TRAIN.txt is for validation. Leaves DIRECTORY/data-bin and DIRECTORY/checkpoint_last.pt; steps that
# are done already are skipped. Takes about two minutes of one core; --max-update 2000 gives a better model.
set -eu

if [ $# -lt 3 ] || [ ! -f "$1" ] || [ ! -f "$2" ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
train=$1 test=$2 directory=$3
shift 3
bin=${FAIRSEQ_BIN:-} # where fairseq's programs are, with a slash at the end; default: on PATH
data=$directory/data-bin
if [ -e "$data" ] && [ ! -f "$data/test.idx" ]; then
  echo "DIRECTORY must be new, or what this script has made; $data has no test.idx" >&2
  exit 2
fi
if [ ! -f "$directory/checkpoint_last.pt" ] && [ -e "$directory/checkpoint_last.pt" ]; then
  echo "DIRECTORY must be new, or what this script has made; $directory/checkpoint_last.pt is not a file" >&2
  exit 2
fi
mkdir -p "$directory"
unfinished=$(mktemp -d "$directory/.unfinished-XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
trap 'exit 1' HUP INT TERM

if [ ! -e "$data" ]; then
  lines=$(wc -l <"$train")
  head -n $((lines - lines / 10)) "$train" >"$unfinished/train.txt"
  tail -n $((lines / 10)) "$train" >"$unfinished/valid.txt"
  "${bin}fairseq-preprocess" --only-source --thresholdsrc 2 --destdir "$unfinished/data-bin" \
    --trainpref "$unfinished/train.txt" --validpref "$unfinished/valid.txt" --testpref "$test"
  # Unlike mv, this does not move it into a directory that another process has made meanwhile.
  "${bin}python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$unfinished/data-bin" "$data"
fi

if [ ! -f "$directory/checkpoint_last.pt" ]; then
  "${bin}fairseq-train" "$data" --task language_modeling --arch transformer_lm \
    --decoder-layers 3 --decoder-embed-dim 128 --decoder-input-dim 128 --decoder-output-dim 128 \
    --decoder-ffn-embed-dim 512 --decoder-attention-heads 8 --share-decoder-input-output-embed --dropout 0.2 \
    --sample-break-mode eos --tokens-per-sample 128 --max-tokens 2048 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.003 --lr-scheduler inverse_sqrt --warmup-updates 50 \
    --clip-norm 1.0 --max-update 400 --seed 1 --num-workers 0 --no-epoch-checkpoints \
    --save-dir "$unfinished/checkpoints" --log-interval 50 "$@"
  mv "$unfinished/checkpoints/checkpoint_last.pt" "$directory/checkpoint_last.pt"
fi
