#!/bin/bash
# Train on several nodes of a Slurm cluster, with one task for each GPU. DVC runs on the first node alone. All nodes
# share the project's folder; submit from there. Everything behind the script's name goes to dvc exp run:
#   sbatch stages/cluster/srun.sh --name large -S train.epochs=40
# After a time limit or scancel the same command continues behind the last finished epoch.
#SBATCH --job-name=lenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ "${1:-}" = --task ]; then  # srun starts this file again, once for each task
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
  export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
  exec python "${@:2}"
fi

source .venv/bin/activate
# The tasks meet on the first node, at a port that hardly another job there has.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MASTER_ADDR MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
# Since Slurm 22.05 srun does not take the CPUs from sbatch. A task that fails ends the others.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK SLURM_KILL_BAD_EXIT=1

export LAUNCHER="srun bash stages/cluster/srun.sh --task"
dvc exp run --temp -S train.micro_batches="$SLURM_NTASKS" "$@"
