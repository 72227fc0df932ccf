#!/usr/bin/env bash
# Tells whose illegal memory access it is: nine stages, each in a process of its own, at most 5 minutes on a card.
#
#   benchmarks/card_check.sh           # on a card
#   benchmarks/card_check.sh --cpu     # a dry run without one: the sanitizer's stages are left out
#
# PYTHON names the Python (default: that of .venv, else python3). Prints one line of JSON for each finding and one for
# each stage; what else is printed goes to standard error. The first stage that fails names the culprit:
# benchmarks/card_check.py says what each of them uses. Exit status 1 if a stage fails: probe does wherever fairseq's
# CUDA extension for n-grams is compiled, unless fairseq has mended it.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PATH="$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:${PYTHONPATH:-}"
device=cuda
few=
limit=300 # seconds of all stages
failed=0
case "${1:-}" in
'') ;;
--cpu) device=cpu few=--few limit=100000 ;;
*)
    echo "usage: benchmarks/card_check.sh [--cpu]" >&2
    exit 2
    ;;
esac

# stage SECONDS NAME [VARIABLE=VALUE ...] [COMMAND ...]: runs card_check.py NAME, under a command if one is given.
stage() {
    local most=$1 name=$2 left=$((limit - SECONDS)) begin=$SECONDS status
    shift 2
    [ $device = cuda ] || most=$left # a dry run may take its time
    [ "$most" -le "$left" ] || most=$left
    if [ "$most" -lt 5 ]; then
        echo "{\"stage\": \"$name\", \"left_out\": \"no time is left\"}"
        return
    fi
    # shellcheck disable=SC2086
    timeout "$most" env "$@" "$python" benchmarks/card_check.py $name $few --device "$device"
    status=$?
    echo "{\"stage\": \"$name\", \"how\": \"$*\", \"status\": $status, \"seconds\": $((SECONDS - begin))}"
    [ "$status" = 0 ] || failed=1
}

alone=PYTORCH_NO_CUDA_MEMORY_CACHING=1 # every tensor is an allocation of its own
now=CUDA_LAUNCH_BLOCKING=1             # the call that fails is the one that reports it
stage 20 env
stage 25 copies
stage 25 products $alone $now
stage 30 unfused $alone $now
stage 40 attention $alone $now
stage 50 decode
if [ $device = cuda ] && command -v compute-sanitizer >/dev/null 2>&1; then
    memcheck="compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9"
    # shellcheck disable=SC2086
    stage 50 'unfused --few' $alone $memcheck
    # shellcheck disable=SC2086
    stage 90 'decode --few' $alone $memcheck
    # shellcheck disable=SC2086
    stage 30 extension $alone $memcheck
    # shellcheck disable=SC2086
    stage 30 probe $alone $memcheck
elif [ $device = cuda ]; then
    echo '{"stage": "memcheck", "left_out": "compute-sanitizer is not on the PATH"}'
fi
stage 40 'bounds --few'
stage 20 extension $now
stage 20 probe $now
exit $failed
