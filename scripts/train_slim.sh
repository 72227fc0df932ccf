#!/bin/sh
# Trains a SLiM Performer on raw files, whole or in slices of C words; what was begun is resumed.
#
#   scripts/train_slim.sh CONFIG REGIME DATA DIRECTORY [any option of fairseq-train]
#
# CONFIG is configs/slim_copy.yaml (DATA is not used), slim_ptb.yaml or slim_enwik8.yaml. REGIME, for samples of L words:
#   full           without slices
#   C              slices of C words, from 1 to L; the last slice of a sample has what is left
#   half, third    C = L/2, C = L/3, rounded up
#   tune-C, tune-half, tune-third    full for the first half of the updates, then slices
# LENGTH and UPDATES in the environment change L and the number of updates. What is finished is left as it is.
set -eu

if [ $# -lt 4 ] || [ ! -f "$1" ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
config=$1 regime=$2 data=$3 directory=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
bin=${FAIRSEQ_BIN:-} # where python and fairseq's programs are, with a slash at the end; default: on PATH
length=${LENGTH:-$("${bin}python" "$here/yaml_options.py" "$config" length)}
updates=${UPDATES:-$("${bin}python" "$here/yaml_options.py" "$config" updates)}
options=$("${bin}python" "$here/yaml_options.py" "$config")

is_positive() { # a whole number that the shell can count with
  case $1 in
  '' | *[!0-9]* | 0* | ??????????*) return 1 ;;
  esac
}
positive() { # positive NAME VALUE
  if ! is_positive "$2"; then
    echo "$1 must be a whole number from 1 to 999999999; got '$2'" >&2
    exit 2
  fi
}
positive LENGTH "$length"
positive UPDATES "$updates"

case ${regime#tune-} in
full) slice=0 ;;
half) slice=$(((length + 1) / 2)) ;;
third) slice=$(((length + 2) / 3)) ;;
*) slice=${regime#tune-} ;;
esac
if [ "$regime" != full ] && ! is_positive "$slice"; then
  echo "REGIME must be full, a slice length C, half, third, tune-C, tune-half or tune-third; got '$regime'" >&2
  exit 2
fi
if [ "$slice" -gt "$length" ]; then
  echo "the slice length of REGIME must be at most L, $length; got $slice. Give less, or full for no slices" >&2
  exit 2
fi

case $regime in
tune-*)
  if [ "$updates" -lt 2 ]; then
    echo "UPDATES must be at least 2 for $regime, one of each kind; got $updates" >&2
    exit 2
  fi
  ;;
esac

train() { # train UPDATES C [option ...]
  max_update=$1 slice_length=$2
  shift 2
  # fairseq would make one more update before it looks at their number
  made=$(PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" "${bin}python" "$here/updates_made.py" "$directory")
  if [ "$made" -ge "$max_update" ]; then
    echo "$directory/checkpoint_last.pt has $made updates already" >&2
    return
  fi
  # shellcheck disable=SC2086 # the options are words without spaces
  "${bin}fairseq-train" "$data" --user-dir "$here/../fairseq_el" $options --tokens-per-sample "$length" \
    --criterion slim_cross_entropy --slice-length "$slice_length" --max-update "$max_update" \
    --seed 1 --num-workers 0 --no-epoch-checkpoints --save-dir "$directory" --log-format json "$@"
}

case $regime in
tune-*)
  half=$((updates / 2))
  if [ ! -f "$directory/half.pt" ]; then
    train "$half" 0 "$@"
    cp "$directory/checkpoint_last.pt" "$directory/.half.unfinished-$$"
    mv "$directory/.half.unfinished-$$" "$directory/half.pt"
  fi
  ;;
esac
train "$updates" "$slice" "$@"
