#!/bin/bash
# Train on several nodes of a Slurm cluster, one task for each GPU; DVC runs on the first node alone. From the project's
# folder, which all nodes share:
#   sbatch stages/cluster/srun.sh --name large -S train.epochs=40    # all behind the script goes to dvc exp run
# Stopped, by the time limit too, it goes on after its last finished epoch when the same command is given again.
#SBATCH --job-name=lenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

source .venv/bin/activate
# Where the tasks find each other: on the first node, at a port that hardly another job there has.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MASTER_ADDR MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
# Since Slurm 22.05 srun does not take this over from sbatch.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# One task that fails ends all, also those that wait for it to join.
export SLURM_KILL_BAD_EXIT=1

# Without DVC_PID, for a task on another node would look there for the dvc that it has to end with; Slurm ends it.
dvc exp run --temp -S train.shards="$SLURM_NTASKS" -S train.launcher="srun env --unset DVC_PID python" "$@"
