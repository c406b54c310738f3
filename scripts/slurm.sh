#!/usr/bin/env bash
# Trains on the GPUs of several nodes under SLURM, and goes back into the queue when its time is up:
#
#     sbatch [--nodes=4 ...] scripts/slurm.sh --config=configs/imagenet/vicreg.py --workdir=DIR
#
# from the repository's directory, which all nodes see. sbatch's own options take precedence over the lines below.
#
#SBATCH --job-name=vicreg
#SBATCH --nodes=2
# JAX takes one GPU a task, and wants to see all GPUs of the node: not --gpus-per-task.
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# Two to three minutes before the end, to the tasks; B:TERM would reach this shell alone.
#SBATCH --signal=TERM@120
# For node failures and preemption, and for `scontrol requeue`.
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

set -u
# A script that sbatch has copied does not lie beside launch.py.
cd "${SLURM_SUBMIT_DIR:?is set by sbatch}" || exit

# --kill-on-bad-exit=0, whatever the cluster's default: the tasks that ask to be run again leave one by one, and the
# first must not end the others while they save. When a task dies the others leave by themselves.
# --cpus-per-task: srun does not inherit it from sbatch.
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
    "${PYTHON:-.venv/bin/python}" launch.py "$@"
code=$?
# A job that was canceled does not come here: SLURM ends this shell too.
if [[ $code -eq 75 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
