#!/usr/bin/env bash
# Trains on the GPUs of several nodes under SLURM, and requeues itself when preempted or out of time:
#
#     sbatch [--nodes=4 ...] scripts/slurm.sh --config=configs/imagenet/vicreg.py --workdir=DIR
#
# Submit it from the repository's directory, which every node must see. Options of sbatch override the lines below.
#
#SBATCH --job-name=vicreg
#SBATCH --nodes=2
# JAX uses one GPU per task but must see all GPUs of the node, so not --gpus-per-task.
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# SIGTERM to the tasks two to three minutes before the time limit; B:TERM would reach this shell only.
#SBATCH --signal=TERM@120
# Allows requeueing: after node failures, after preemption, and by `scontrol requeue`.
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

set -u
# sbatch runs a copy of this script, which does not lie beside launch.py.
cd "${SLURM_SUBMIT_DIR:?must be set; submit this script with sbatch}" || exit

# --kill-on-bad-exit=0 overrides the cluster's default: preempted tasks exit one by one, and the first must not end the
# others while they save. When a task dies, the others exit by themselves.
# --cpus-per-task: srun does not inherit it from sbatch.
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
    "${PYTHON:-.venv/bin/python}" launch.py "$@"
code=$?
# A canceled job never reaches this line: SLURM ends this shell too.
# 134: JAX aborts a task whose peer has died. A task that aborts within a minute has its own fault.
if [[ $code -eq 75 || ($code -eq 134 && $SECONDS -ge ${ABORT_SECONDS:-60}) ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
