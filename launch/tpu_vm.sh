#!/usr/bin/env bash
# Cloud TPU VM, one host or a pod slice: the same command on every worker, by gcloud's ssh.
set -euo pipefail

usage() {
  cat <<'END'
Usage: TPU_NAME=NAME TPU_ZONE=ZONE launch/tpu_vm.sh ARGUMENTS OF jepa.main ...

Environment:
  TPU_NAME     the TPU VM (required)
  TPU_ZONE     its zone (required)
  TPU_PROJECT  its project (default: gcloud's)
  TPU_DIR      the repository on every worker, relative to the home directory (default jepa)
  TPU_VENV     a virtual environment there, relative to TPU_DIR (default .venv)

Ctrl-C and SIGTERM are passed on to the processes on all workers, which save and exit with 75; run the same
command again to continue. The exit code is that of the first worker that failed. The workdir must be one that
all workers see, such as a mounted Filestore or bucket

Example: TPU_NAME=v5e TPU_ZONE=us-west4-a launch/tpu_vm.sh --config=configs/quickstart.py --workdir=/mnt/shared/run
END
}

case ${1-} in -h | --help) usage && exit ;; esac
if [[ -z ${TPU_NAME:-} || -z ${TPU_ZONE:-} ]]; then
  echo "launch/tpu_vm.sh: set TPU_NAME and TPU_ZONE (see --help)" >&2
  exit 2
fi

on_all_workers() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" ${TPU_PROJECT:+"--project=$TPU_PROJECT"} \
    --worker=all --command="$1" </dev/null
}

# Runs a command on every worker, in the repository and its virtual environment, and waits for all of them.
everywhere() {
  local dir venv run pidfile ssh code=0
  printf -v dir %q "${TPU_DIR:-jepa}"
  printf -v venv %q "${TPU_VENV:-.venv}"
  printf -v run '%q ' "$@"
  pidfile="/tmp/jepa-\$USER.pid"
  # ssh without a terminal carries no signals: the command leaves its pid behind (exec keeps it) for later.
  trap 'on_all_workers "kill -TERM \$(cat $pidfile)" || true' INT TERM HUP
  set -m # in a process group of its own: a Ctrl-C must not cut the connection before the run has saved
  on_all_workers "cd $dir && . $venv/bin/activate && echo \$\$ >$pidfile && exec $run" &
  ssh=$!
  set +m
  while kill -0 "$ssh" 2>/dev/null; do sleep 0.2 || true; done # not wait: a trapped signal would end it early
  wait "$ssh" || code=$?
  return "$code"
}

set -- "$@" --distributed
everywhere python -m jepa.main "$@"
