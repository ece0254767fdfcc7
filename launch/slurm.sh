#!/usr/bin/env bash
# Trains on a SLURM cluster, one process a GPU. From the root of the repository, in an environment with
# requirements-gpu.txt, which the job inherits; WORKDIR is where all nodes see it:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=8 --time=1-00:00:00 \
#       launch/slurm.sh --config=configs/perl_3b.py --workdir=WORKDIR [more flags of perl_jax.train]
#
# One process a node, with all its GPUs: --ntasks-per-node=1. Not --gpus-per-task: JAX itself gives each process the
# GPU of its number on the node, and must see them all.
#
# Three to four minutes before its time limit the run gets SIGTERM, saves its step and ends, or else goes on from its
# last checkpoint, as where a node fails; then the job goes back into the queue. sbatch --no-requeue: not.
#SBATCH --job-name=perl_jax
#SBATCH --output=perl_jax-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
set -euo pipefail

if [ -z "${SLURM_JOB_ID:-}" ] || [ ! -f perl_jax/train.py ]; then
    echo "error: submit it from the root of the repository: sbatch launch/slurm.sh --config=... --workdir=..." >&2
    exit 1
fi
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not inherit it
if [ "${SLURM_NTASKS_PER_NODE:-}" = 1 ] && [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi

limit='' # reached soon. Requeued at once, a run would have SLURM's KillWait to save, 30 s, and not config.grace
trap 'limit=1; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1
# Each line of the log begins with its process's number; process 0 logs, the others only what goes wrong.
srun --kill-on-bad-exit=1 --label python -m perl_jax.train "$@" &
code=0
wait $! || wait $! || code=$? # the first ends where the signal comes
[ -z "$limit" ] || scontrol requeue "$SLURM_JOB_ID" || true
exit $code
