#!/usr/bin/env bash
#SBATCH --job-name=jepa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
# Slurm: one process per task (a node, or a GPU); the job queues itself again when interrupted after saving.
set -euo pipefail

usage() {
  cat <<'END'
Usage: sbatch [SBATCH OPTIONS] launch/slurm.sh ARGUMENTS OF jepa.main ...

Submit it from the repository's root; options of sbatch override those at the head of this file.
  one process per node:  sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh ...
  one process per GPU:   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh ...

Environment:
  JEPA_VENV  a virtual environment on a shared disk to activate (default: the one active at submission)

120 seconds before the time limit, and on preemption with a grace time, Slurm sends SIGTERM to every process;
the run saves and exits with 75, and this script puts the job back in the queue, where the same command
continues it. A job that scancel or Slurm itself ends is not requeued here. Any other exit code ends the job.

Example: sbatch --nodes=2 launch/slurm.sh --config=configs/ijepa_in1k.py:arch=H/14 --workdir=/shared/h14
END
}

case ${1-} in -h | --help) usage && exit ;; esac
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "launch/slurm.sh: not inside a Slurm job: submit it with sbatch (see --help)" >&2
  exit 2
fi
if [[ -n ${JEPA_VENV:-} ]]; then
  # shellcheck source=/dev/null
  source "$JEPA_VENV/bin/activate"
fi

# The warning before the time limit goes to the processes alone; this shell gets SIGTERM only when the job is
# being ended (scancel, preemption that Slurm requeues itself), and then it must not queue it again.
ending=
trap 'ending=1' TERM

finish() {
  local code=$?
  if ((code == 75)) && [[ -z $ending ]]; then
    echo "launch/slurm.sh: interrupted after saving; requeueing $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}
trap finish EXIT

# On Slurm, JAX gives each process one GPU, the one of its rank in the node; a lone process takes them all.
if ((${SLURM_NTASKS_PER_NODE:-1} == 1 && ${SLURM_GPUS_ON_NODE:-1} > 1)); then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# A process that exits with 75 must not have the others killed while they save; a minute later it may.
set -- "$@" --distributed
srun --kill-on-bad-exit=0 --wait=60 python -m jepa.main "$@"
