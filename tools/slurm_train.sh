#!/usr/bin/env bash
# Trains under Slurm, is put back into the queue when its time is over, and goes on where it stopped.
#
#   sbatch --partition=gpu tools/slurm_train.sh CONFIG WORK_DIR [options of tools/train.py]
#
# One task for each GPU. Slurm sends SIGUSR1 to every task ten minutes before the time is over; they save and end with
# exit code 75, and the job is put back into the queue. `--resume` starts at the beginning where there is no checkpoint.
#SBATCH --job-name=mixedae
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=10
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

config=$1
work_dir=$2
shift 2

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# --kill-on-bad-exit: when one task dies, the others are ended too instead of waiting for it.
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -u tools/train.py "$config" \
    --work-dir "$work_dir" --launcher slurm --resume "$@" &
step=$!
wait "$step"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
