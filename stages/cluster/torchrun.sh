#!/bin/bash
# As srun.sh, but with one torchrun on each node, which starts a process for each GPU there:
#   sbatch stages/cluster/torchrun.sh --name large -S train.epochs=40
#SBATCH --job-name=lenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

source .venv/bin/activate
# torchrun reads each option from a variable: --nnodes from PET_NNODES.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export PET_NNODES=$SLURM_NNODES PET_NPROC_PER_NODE=${SLURM_GPUS_ON_NODE:-1}
export PET_RDZV_BACKEND=c10d PET_RDZV_ID=$SLURM_JOB_ID PET_RDZV_ENDPOINT=$first:$((10000 + SLURM_JOB_ID % 20000))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK SLURM_KILL_BAD_EXIT=1

export LAUNCHER="srun torchrun"
dvc exp run --temp -S train.micro_batches=$((PET_NNODES * PET_NPROC_PER_NODE)) "$@"
