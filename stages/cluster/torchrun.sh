#!/bin/bash
# As srun.sh, which see, with one torchrun on each node, which starts a process for each of its GPUs:
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
# torchrun's options from its variables, so that no address gets into params.yaml.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export PET_NNODES=$SLURM_NNODES PET_NPROC_PER_NODE=${SLURM_GPUS_ON_NODE:-1}
export PET_RDZV_BACKEND=c10d PET_RDZV_ID=$SLURM_JOB_ID PET_RDZV_ENDPOINT=$first:$((10000 + SLURM_JOB_ID % 20000))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK SLURM_KILL_BAD_EXIT=1

dvc exp run --temp -S train.shards=$((PET_NNODES * PET_NPROC_PER_NODE)) \
  -S train.launcher="srun env --unset DVC_PID torchrun" "$@"
