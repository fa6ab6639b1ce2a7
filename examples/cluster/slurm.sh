#!/bin/bash
# A search on nodes of Slurm: `sbatch examples/cluster/slurm.sh examples/digits.yaml digits`, called in the folder with your
# code and its .venv, on a file system that all nodes share. docs/cluster.md says how. The same again goes on with it.
#SBATCH --job-name=tune-platform
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
# SIGTERM comes 180 seconds before the time is up: running trials then end their step and write checkpoints.
# For GPUs add: --gpus-per-node=4

set -euo pipefail
spec=${1:?the spec file is wanted: sbatch slurm.sh SPEC NAME}
name=${2:?the name of the experiment is wanted: sbatch slurm.sh SPEC NAME}
# SQLite cannot be trusted on a shared file system, and the next job may get another first node.
: "${TUNE_PLATFORM_STORAGE:?set it to the URL of a PostgreSQL, such as postgresql://user@host/tune}"
checkpoints=${TUNE_PLATFORM_CHECKPOINTS:-$PWD/checkpoints}
export PATH="$PWD/.venv/bin:$PATH"

# Others of this machine shall not get in, and two jobs on one node shall not meet.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
port=$((20000 + SLURM_JOB_ID % 10000))

# This script runs on the first of the nodes, which becomes the head.
head=$(hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS="$head:$port"
gpus=${SLURM_GPUS_ON_NODE:-0}

srun --nodes=1 --ntasks=1 --nodelist="$(hostname -s)" \
  env -u RAY_ADDRESS ray start --head --node-ip-address="$head" --port="$port" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --disable-usage-stats --block &
for ((tries = 60; tries; tries--)); do
  if ray status >/dev/null 2>&1; then break; fi
  sleep 2
done
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$(hostname -s)" \
    env -u RAY_ADDRESS ray start --address="$head:$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --disable-usage-stats --block &
fi

# The driver does not wait for the workers: it takes up nodes as they come.
tune-platform run "$spec" --name "$name" --if-exists resume --set "checkpoint.storage=$checkpoints" &
driver=$!
told=0
trap 'told=1; kill -TERM "$driver" 2>/dev/null || true' TERM
code=0
wait "$driver" || code=$?
if ((told)); then # the signal ended the wait, while the driver still saves
  code=0
  wait "$driver" || code=$?
fi
exit "$code"
