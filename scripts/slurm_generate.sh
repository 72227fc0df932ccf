#!/bin/sh
# Decodes a text on many cards of a SLURM cluster, as a job array: every task takes one card and its share of the lines.
#
#   sbatch scripts/slurm_generate.sh DATA --path model.pt ... --input in.txt --output out.txt
#   sbatch --array=0-63 --gres=gpu:1 --time=2:00:00 scripts/slurm_generate.sh DATA ...     # other sizes
#
# The arguments are those of fairseq-el generate. --input and --output must be on a file system that all nodes share.
# Before its time is up, SLURM warns a task by SIGUSR1. The task then keeps what it has and is queued again. So is one
# that is preempted or whose node fails. The task that ends last writes the output; a task may run again at any time.
# FAIRSEQ_EL names the program, by default the fairseq-el on the PATH.
#SBATCH --job-name=fairseq-el
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gres=gpu:v100:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -eu
program=${FAIRSEQ_EL:-fairseq-el}

output=
is_next=no
for word in "$@"; do
    [ "$is_next" = no ] || output=$word
    is_next=no
    case $word in
        --output) is_next=yes ;;
        --output=*) output=${word#--output=} ;;
    esac
done
if [ -z "$output" ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    echo 'usage: sbatch scripts/slurm_generate.sh DATA --path model.pt ... --input FILE --output FILE' >&2
    exit 2
fi

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
status=0
srun "$program" generate "$@" --shard env || status=$?
if [ "$status" -eq 3 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    exit
fi
[ "$status" -eq 0 ] || exit "$status"
"$program" merge "$output.journal" --if-complete
