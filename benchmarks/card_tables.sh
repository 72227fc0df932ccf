#!/usr/bin/env bash
# The paper's tables on a card, in one command: largest batches and sentences per second of stock and EL-attention.
#
#   benchmarks/card_tables.sh                  # the whole card; half an hour or more
#   benchmarks/card_tables.sh 16GiB            # the card cut to 16 GiB
#   benchmarks/card_tables.sh 16GiB --short    # half of the words, one round, batch 32 and the largest; 4 minutes
#
# Further options are those of benchmarks/card_tables.py. PYTHON names the Python (default: that of .venv, else python3).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:${PYTHONPATH:-}"
memory=
case "${1:-}" in
'' | -*) ;;
*)
    memory="--memory $1"
    shift
    ;;
esac
short=
if [ "${1:-}" = --short ]; then
    short="--fewer 2 --runs 1 --batches 32 --most 4096 --seconds 220 --tables cnndm,greedy,xsum,gpt2,squad"
    shift
fi
# shellcheck disable=SC2086
exec "$python" benchmarks/card_tables.py $memory $short "$@"
