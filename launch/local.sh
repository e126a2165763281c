#!/usr/bin/env bash
# One machine: N processes joined by jax.distributed, or one process with N host (CPU) devices.
set -euo pipefail

usage() {
  cat <<'END'
Usage: launch/local.sh [-n N] [-d N] [--] ARGUMENTS OF jepa.main ...

  -n, --processes N  N processes joined by jax.distributed on 127.0.0.1 (default 1)
  -d, --devices N    N host (CPU) devices in each process
  -h, --help         this text

Environment:
  JAX_PLATFORMS  with -n or -d: cpu unless set
  JEPA_PORT      the coordinator's port (default: a free one)
  JEPA_GRACE     seconds that the others get to stop once a process has failed or was interrupted (default 60)

Ctrl-C and SIGTERM reach every process, which saves and exits with 75: run the same command again to continue.
The exit code is that of the first process that failed, else 0.

Example: launch/local.sh -n 2 -d 4 --config=configs/quickstart.py --workdir=runs/two
END
}

die() {
  echo "launch/local.sh: $1 (see --help)" >&2
  exit 2
}

processes=1
devices=
while (($#)); do
  case $1 in
    -h | --help) usage && exit ;;
    -n | --processes) processes=${2-} && shift $(($# > 1 ? 2 : 1)) ;;
    -d | --devices) devices=${2-} && shift $(($# > 1 ? 2 : 1)) ;;
    --) shift && break ;;
    *) break ;;
  esac
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "-n needs a positive number, not '$processes'"
[[ -z $devices || $devices =~ ^[1-9][0-9]*$ ]] || die "-d needs a positive number, not '$devices'"

if [[ -n $devices ]]; then
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi

# Starts the processes, waits for them, and exits with the code of the first that failed.
supervise() {
  local port=${JEPA_PORT:-} grace=${JEPA_GRACE:-60} pids=() left=() result=0 deadline='' told='' pid rank code
  # bash alone: one connection attempt tells whether somebody listens there.
  until [[ -n $port ]]; do
    port=$((RANDOM % 20000 + 20000))
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then port=; fi
  done
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

  forward() {
    told=1
    for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done
  }
  trap 'forward INT' INT
  trap 'forward TERM' TERM HUP

  # Job control while starting: each process leads a group of its own and keeps the default SIGINT, so that a
  # Ctrl-C reaches it once, through us, and reaches no data worker before its parent has saved.
  set -m
  for ((rank = 0; rank < processes; rank++)); do
    bash "$0" -- "$@" \
      --coordinator="127.0.0.1:$port" --num_processes="$processes" --process_id="$rank" </dev/null &
    pids+=("$!")
  done
  set +m

  while ((${#pids[@]})); do
    left=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        left+=("$pid")
      else
        code=0
        wait "$pid" || code=$?
        kill -s KILL -- "-$pid" 2>/dev/null || true # what it left behind in its group
        if ((code && !result)); then
          result=$code
          deadline=$((SECONDS + grace))
          ((code == 75)) || echo "launch/local.sh: a process exited with $code; stopping the others" >&2
          [[ -n $told ]] || forward TERM # a second signal could cut short a save
        fi
      fi
    done
    pids=(${left[@]+"${left[@]}"})
    if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
      for pid in ${pids[@]+"${pids[@]}"}; do kill -s KILL -- "-$pid" 2>/dev/null || true; done
      deadline=
    fi
    ((${#pids[@]} == 0)) || sleep 0.1 || true
  done
  exit "$result"
}

((processes == 1)) || supervise "$@"
exec python -m jepa.main "$@"
