"""The launchers, run for real with stand-ins for `python`, `srun`, `scontrol` and `gcloud` first on PATH."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHERS = sorted((ROOT / "launch").glob("*.sh"))
SCRIPTS = [*LAUNCHERS, ROOT / ".ci/run"]
COMMAND = 'python -m jepa.main "$@"'
INTERRUPTED = 75

# Records its arguments and environment, says that it is ready, and behaves as its environment tells it to.
PYTHON = """#!/bin/bash
rank=0
for arg in "$@"; do [[ $arg == --process_id=* ]] && rank=${arg#*=}; done
trap 'echo TERM >>"$STUB/signals.$rank"; [[ $STUBBORN == "$rank" ]] || exit 75' TERM
trap 'echo INT >>"$STUB/signals.$rank"; exit 75' INT
printf '%s\\n' "$@" >"$STUB/args.$rank"
env >"$STUB/env.$rank"
touch "$STUB/ready.$rank"
[[ -z $EXIT || $FAILS != "$rank" ]] || exit "$EXIT"
[[ -z $WAITS ]] || for _ in {1..1000}; do sleep 0.02; done
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >>"$STUB/scontrol"
"""
GCLOUD = """#!/bin/bash
printf '%s\\n' "$@" >>"$STUB/gcloud"
for arg in "$@"; do [[ $arg == --command=* ]] && exec bash -c "${arg#*=}"; done
"""

# A shell cannot trap a signal that it was started to ignore, and tests run in the background are started so.
HEARS_INT = ("import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
             "os.execvp('bash', sys.argv[1:])")


@pytest.fixture
def launch(tmp_path):
  """A function (script, *args, **environment) -> started process; what still runs at the end is killed."""
  (tmp_path / "bin").mkdir()
  for name, text in dict(python=PYTHON, srun=SRUN, scontrol=SCONTROL, gcloud=GCLOUD).items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  stubs = dict(PATH=f"{tmp_path}/bin:{os.environ['PATH']}", STUB=str(tmp_path), USER=tmp_path.name)
  started = []

  def start(script, *args, **environment):
    ours = ("JEPA_", "JAX_", "XLA_", "SLURM_", "TPU_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_INT, "bash", ROOT / "launch" / script, *args],
        env=inherited | stubs | environment, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    started.append(process)
    return process

  yield start
  for process in started:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(*paths: pathlib.Path) -> None:
  deadline = time.monotonic() + 20
  while not all(path.exists() for path in paths):
    assert time.monotonic() < deadline, f"never appeared: {[p.name for p in paths if not p.exists()]}"
    time.sleep(0.01)


def finish(process: subprocess.Popen) -> tuple[int, str]:
  output, _ = process.communicate(timeout=20)
  return process.returncode, output


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(script):
  binary = shutil.which("shellcheck", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
  assert binary, "shellcheck is missing: pip install -e '.[test]'"
  done = subprocess.run([binary, "--external-sources", script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_is_executable_bash(script):
  assert os.access(script, os.X_OK)
  assert script.read_text().startswith("#!/usr/bin/env bash\n")
  subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda p: p.name)
def test_ends_in_the_same_line(script):
  assert script.read_text().splitlines()[-1].endswith(" " + COMMAND)


def test_jobset_runs_the_same_line():
  spec = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())["spec"]
  [workers] = spec["replicatedJobs"]
  job = workers["template"]["spec"]
  [container] = job["template"]["spec"]["containers"]
  assert container["command"][:3] == ["bash", "-c", "exec " + COMMAND]
  assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [INTERRUPTED]
  assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
  assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy requires


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda p: p.name)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(launch, tmp_path, script, flag):
  code, output = finish(launch(script.name, flag))
  assert code == 0
  assert output.startswith("Usage: ") and "75" in output
  assert not list(tmp_path.glob("args.*"))


@pytest.mark.parametrize("args", [["-n"], ["-n", "0"], ["-n", "two"], ["-d", "0"]], ids=" ".join)
def test_local_refuses_bad_numbers(launch, args):
  code, output = finish(launch("local.sh", *args))
  assert code == 2 and "positive number" in output


def test_local_one_process_with_host_devices(launch, tmp_path):
  code, _ = finish(launch("local.sh", "-d", "4", "--config=a b", "--workdir=w", XLA_FLAGS="--xla_foo"))
  assert code == 0
  assert (tmp_path / "args.0").read_text().splitlines() == ["-m", "jepa.main", "--config=a b", "--workdir=w"]
  environment = (tmp_path / "env.0").read_text().splitlines()
  assert "XLA_FLAGS=--xla_foo --xla_force_host_platform_device_count=4" in environment
  assert "JAX_PLATFORMS=cpu" in environment


def test_local_two_processes(launch, tmp_path):
  code, _ = finish(launch("local.sh", "-n", "2", "-d", "3", "--", "--config=a b", JEPA_PORT="1234"))
  assert code == 0
  for rank in range(2):
    assert (tmp_path / f"args.{rank}").read_text().splitlines() == [
        "-m", "jepa.main", "--config=a b",
        "--coordinator=127.0.0.1:1234", "--num_processes=2", f"--process_id={rank}"]
    environment = (tmp_path / f"env.{rank}").read_text().splitlines()
    assert "JAX_PLATFORMS=cpu" in environment
    assert "XLA_FLAGS= --xla_force_host_platform_device_count=3" in environment


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_local_forwards_a_signal_once(launch, tmp_path, name):
  process = launch("local.sh", "-n", "2", WAITS="1")
  wait_for(tmp_path / "ready.0", tmp_path / "ready.1")
  process.send_signal(signal.Signals["SIG" + name])
  assert finish(process)[0] == INTERRUPTED
  for rank in range(2):
    assert (tmp_path / f"signals.{rank}").read_text().split() == [name]


def test_local_stops_the_others_when_one_fails(launch, tmp_path):
  code, output = finish(launch("local.sh", "-n", "3", WAITS="1", EXIT="3", FAILS="1"))
  assert code == 3 and "exited with 3" in output
  assert not (tmp_path / "signals.1").exists()


def test_local_kills_what_does_not_stop(launch, tmp_path):
  process = launch("local.sh", "-n", "2", WAITS="1", EXIT="3", FAILS="1", STUBBORN="0", JEPA_GRACE="1")
  assert finish(process)[0] == 3


SLURM = dict(SLURM_JOB_ID="42", SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="2")


def test_slurm_passes_arguments_and_all_gpus(launch, tmp_path):
  assert finish(launch("slurm.sh", "--config=a b", **SLURM))[0] == 0
  args = (tmp_path / "args.0").read_text().splitlines()
  assert args == ["-m", "jepa.main", "--config=a b", "--distributed"]
  assert "JAX_LOCAL_DEVICE_IDS=0,1" in (tmp_path / "env.0").read_text().splitlines()


def test_slurm_leaves_devices_to_jax_with_a_process_per_gpu(launch, tmp_path):
  assert finish(launch("slurm.sh", **SLURM | dict(SLURM_NTASKS_PER_NODE="2")))[0] == 0
  assert "JAX_LOCAL_DEVICE_IDS" not in (tmp_path / "env.0").read_text()


@pytest.mark.parametrize("exit_code, requeued", [(INTERRUPTED, True), (1, False)])
def test_slurm_requeues_only_after_an_interruption(launch, tmp_path, exit_code, requeued):
  assert finish(launch("slurm.sh", EXIT=str(exit_code), FAILS="0", **SLURM))[0] == exit_code
  assert (tmp_path / "scontrol").exists() == requeued
  if requeued:
    assert (tmp_path / "scontrol").read_text() == "requeue 42\n"


def test_slurm_does_not_requeue_a_cancelled_job(launch, tmp_path):
  process = launch("slurm.sh", WAITS="1", **SLURM)
  wait_for(tmp_path / "ready.0")
  os.killpg(process.pid, signal.SIGTERM)  # Slurm, ending a job, signals its shell as well as its processes
  assert finish(process)[0] == INTERRUPTED
  assert not (tmp_path / "scontrol").exists()


def test_slurm_outside_a_job(launch):
  code, output = finish(launch("slurm.sh", "--config=a"))
  assert code == 2 and "sbatch" in output


@pytest.fixture
def tpu(tmp_path):
  """What a worker has: the repository with its virtual environment."""
  (tmp_path / "my jepa/.venv/bin").mkdir(parents=True)
  (tmp_path / "my jepa/.venv/bin/activate").write_text("")
  yield dict(TPU_NAME="pod", TPU_ZONE="zone", TPU_DIR="my jepa")
  pathlib.Path(f"/tmp/jepa-{tmp_path.name}.pid").unlink(missing_ok=True)


def test_tpu_runs_on_all_workers(launch, tmp_path, tpu):
  assert finish(launch("tpu_vm.sh", "--config=a b;c", **tpu))[0] == 0
  args = (tmp_path / "args.0").read_text().splitlines()
  assert args == ["-m", "jepa.main", "--config=a b;c", "--distributed"]
  assert (tmp_path / "gcloud").read_text().splitlines()[:7] == [
      "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all"]


@pytest.mark.parametrize("exit_code", [1, INTERRUPTED])
def test_tpu_propagates_the_exit_code(launch, tpu, exit_code):
  assert finish(launch("tpu_vm.sh", EXIT=str(exit_code), FAILS="0", **tpu))[0] == exit_code


def test_tpu_carries_a_signal_to_the_workers(launch, tmp_path, tpu):
  process = launch("tpu_vm.sh", WAITS="1", **tpu)
  wait_for(tmp_path / "ready.0")
  process.send_signal(signal.SIGINT)
  assert finish(process)[0] == INTERRUPTED
  assert (tmp_path / "signals.0").read_text().split() == ["TERM"]


def test_tpu_needs_a_name(launch):
  code, output = finish(launch("tpu_vm.sh", "--config=a"))
  assert code == 2 and "TPU_NAME" in output
