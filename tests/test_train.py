"""The loop and its faults: exact resume, signals, damage, refusals, non-finite steps; and the entry points as
programs."""
import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jepa import checkpoint, experiment, initial, logs, train
from tests import runs

TOTAL = 24


def tiny(name="quickstart", **fields):
  """A config of 24 steps with a checkpoint every 6 and no evaluation during training."""
  c = runs.config(name, **{"total": f"{TOTAL} steps"} | fields)
  c.checkpoint.every, c.log.tensorboard = "6 steps", False
  return c


def last_state(c, workdir):
  exp = experiment.build(c)
  return jax.device_get(initial.restore(str(workdir), exp.abstract, exp.shardings).state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run: (config, workdir, last state)."""
  workdir, c = tmp_path_factory.mktemp("whole"), tiny()
  assert train.run(c, workdir) == 0
  return c, workdir, last_state(c, workdir)


def run_program(module, *args, **more):
  return subprocess.run([sys.executable, "-m", module, *args], cwd=runs.ROOT, capture_output=True, text=True,
                        timeout=240, **more)


def main_args(workdir, *more, config="quickstart"):
  return (f"--config={runs.ROOT}/configs/{config}.py:tiny", f"--workdir={workdir}",
          f"--config.total={TOTAL} steps", "--config.checkpoint.every=6 steps",
          "--config.log.tensorboard=False", *more)


def test_a_run_leaves_what_it_should(whole):
  _, workdir, state = whole
  assert int(state.step) == TOTAL
  records = logs.history(workdir)
  assert [r["step"] for r in records] == list(range(1, TOTAL + 1))
  wanted = {"loss", "grad_norm", "images_per_s", "flops_per_s", "input_wait", "lr", "raw_bytes",
            "optic_nerve_years", "epochs"}
  assert wanted <= set(records[-1])
  assert records[-1]["raw_bytes"] == TOTAL * 16 * 16 * 16 * 3
  rows = json.loads((workdir / "results.json").read_text())
  assert {r["row"] for r in rows} == {"raw pixels", "untrained encoder", "trained encoder"}
  assert all(set(r) == {"row", "metric", "mean", "sd", "seeds", "protocol"} for r in rows)
  assert "trained parameters" in (workdir / "parameters.txt").read_text()
  assert json.loads((workdir / "facts.json").read_text())["jax"] == jax.__version__
  assert checkpoint.steps(workdir / "checkpoints") == [18, 24]      # keep = 2


def test_kill_9_at_a_random_step_and_the_same_command_again(whole, tmp_path):
  c, _, expected = whole
  process = subprocess.Popen([sys.executable, "-m", "jepa.main", *main_args(tmp_path)], cwd=runs.ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  stop_at = random.randrange(13, TOTAL - 2)     # the save at 12 waited for the one at 6 to be complete
  path = tmp_path / "metrics.jsonl"
  deadline = time.monotonic() + 200
  while time.monotonic() < deadline and process.poll() is None:
    if path.exists() and len(path.read_text().splitlines()) >= stop_at:
      break
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  kept = checkpoint.steps(tmp_path / "checkpoints")
  assert process.returncode in (-signal.SIGKILL, 0)
  assert kept, f"killed near step {stop_at} and no checkpoint was there"
  assert train.run(c, tmp_path) == 0
  assert runs.equal(last_state(c, tmp_path), expected), f"killed near step {stop_at}, resumed from {kept[-1]}"


def test_sigterm_saves_exits_75_and_the_same_command_goes_on(whole, tmp_path):
  c, _, expected = whole
  process = subprocess.Popen([sys.executable, "-m", "jepa.main", *main_args(tmp_path)], cwd=runs.ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  path, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 200
  while (time.monotonic() < deadline and process.poll() is None
         and not (path.exists() and path.read_text().count("\n") >= 2)):
    time.sleep(0.001)
  process.send_signal(signal.SIGTERM)
  output = process.communicate(timeout=200)[0]
  if process.returncode == 0:
    pytest.skip("the run was over before the signal came")
  assert process.returncode == train.INTERRUPTED, output
  saved = checkpoint.steps(tmp_path / "checkpoints")[-1]
  assert f"saved step {saved}" in output and saved < TOTAL
  assert train.run(c, tmp_path) == 0
  assert runs.equal(last_state(c, tmp_path), expected)


def test_resume_on_another_mesh(whole, tmp_path):
  c, workdir, expected = whole
  shutil.copytree(workdir, tmp_path / "copy")
  shutil.rmtree(tmp_path / "copy" / "checkpoints" / str(TOTAL))
  other = tiny(mesh=dict(data=2, fsdp=2, tensor=2), replicated_tolerance=1.0)
  assert train.run(other, tmp_path / "copy") == 0
  state = last_state(other, tmp_path / "copy")
  assert int(state.step) == TOTAL
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3),
               state.params, expected.params)


# Orbax reads in threads of its own, and some of their errors come up again when the threads are gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("damage", ["truncate", "delete", "one bit", "metadata"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(whole, tmp_path, damage, caplog):
  c, workdir, expected = whole
  shutil.copytree(workdir, tmp_path / "copy")
  newest = tmp_path / "copy" / "checkpoints" / str(TOTAL)
  victim = (newest / "_CHECKPOINT_METADATA" if damage == "metadata"
            else next((newest / "state" / "d").iterdir()))
  data = bytearray(victim.read_bytes())
  if damage == "delete":
    victim.unlink()
  elif damage == "one bit":
    data[len(data) // 2] ^= 0x10
    victim.write_bytes(data)
  else:
    victim.write_bytes(data[: len(data) // 2])
  with caplog.at_level("ERROR"):
    assert train.run(c, tmp_path / "copy") == 0
  assert any(f"checkpoint {TOTAL}" in m and "set aside" in m for m in caplog.messages)
  gc.collect()
  assert (tmp_path / "copy" / "checkpoints" / f"{TOTAL}.damaged").is_dir()
  assert runs.equal(last_state(c, tmp_path / "copy"), expected)


def test_another_architecture_is_refused_with_the_differences(whole):
  _, workdir, _ = whole
  other = tiny()
  other.args.projector = dict(widths=(32, 24))
  with pytest.raises(checkpoint.Mismatch,
                     match=r"args.projector.widths: \[32, 16\] in the workdir, \[32, 24\] now"):
    train.run(other, workdir)


def test_checkpoint_itself_refuses_other_shapes(whole):
  _, workdir, _ = whole
  other = tiny()
  other.args.projector = dict(widths=(32, 24))
  exp = experiment.build(other)
  with pytest.raises(checkpoint.Mismatch,
                     match=r"projector/out/kernel: \(32, 16\) in the checkpoint, \(32, 24\) wanted"):
    initial.restore(str(workdir), exp.abstract, exp.shardings)


def test_initialisation_from_another_run(whole, tmp_path):
  _, workdir, expected = whole
  c = tiny()
  c.init.encoder = str(workdir)
  exp = experiment.build(c)
  with checkpoint.open(tmp_path / "checkpoints") as empty:
    state, position, origin = initial.start(exp, empty)
  assert int(state.step) == 0 and not position and "encoder of" in origin
  assert runs.equal(jax.device_get(state.params["encoder"]), expected.params["encoder"])
  assert runs.equal(jax.device_get(state.extra["encoder"]), expected.extra["encoder"])
  assert not runs.equal(jax.device_get(state.params["projector"]), expected.params["projector"])
  c.init = dict(checkpoint=str(workdir), encoder="")
  with checkpoint.open(tmp_path / "checkpoints") as empty:
    state, position, origin = initial.start(experiment.build(c), empty)
  assert int(state.step) == TOTAL and position and runs.equal(jax.device_get(state), expected)


def test_non_finite_stops_with_step_and_examples_and_keeps_the_good_checkpoint(tmp_path, monkeypatch):
  c = tiny()
  build = experiment.build

  def poisoned(config):
    exp = build(config)

    def step(state, batch):
      after, metrics = exp.step(state, batch)
      bad = state.step == 13      # the 14th step
      broken = state._replace(step=state.step + 1)
      pick = lambda a, b: jax.tree.map(lambda x, y: jax.numpy.where(bad, x, y), a, b)
      after = pick(broken._replace(key=0), after._replace(key=0))._replace(key=state.key)
      return after, metrics | {"loss": jax.numpy.where(bad, jax.numpy.nan, metrics["loss"]),
                               "skipped": jax.numpy.where(bad, 1.0, 0.0)}
    return exp._replace(step=step)

  monkeypatch.setattr(experiment, "build", poisoned)
  with pytest.raises(train.NonFinite,
                     match=r"step 14: loss nan.*examples \[\d+, .*The last checkpoint is good"):
    train.run(c, tmp_path / "stop")
  assert checkpoint.steps(tmp_path / "stop" / "checkpoints") == [6, 12]

  c.nonfinite = 1                 # an isolated spike is skipped and counted
  assert train.run(c, tmp_path / "skip") == 0
  assert logs.history(tmp_path / "skip")[-1]["skipped_steps"] == 1.0


def test_exploding_run_stops(tmp_path):
  c = tiny()
  c.optim = dict(name="sgd", lr=dict(value=1e30), weight_decay=dict(value=0.0), clip=0.0)
  with pytest.raises(train.NonFinite, match="gradient"):
    train.run(c, tmp_path)


def test_help_and_errors_of_the_programs(tmp_path):
  shown = run_program("jepa.main", "--help")
  assert "--config" in shown.stdout and "--workdir" in shown.stdout and "75" in shown.stdout
  typo = run_program("jepa.main", *main_args(tmp_path, "--config.args.slicse=3"))
  assert typo.returncode != 0 and "slices" in typo.stderr and not any(tmp_path.iterdir())
  missing = run_program("jepa.evaluate", f"--workdir={tmp_path}/nothing")
  assert missing.returncode == 1 and "config.json does not exist" in missing.stderr


def test_evaluate_program(whole, tmp_path):
  _, workdir, _ = whole
  shutil.copytree(workdir, tmp_path / "copy")
  (tmp_path / "copy" / "results.json").unlink()
  done = run_program("jepa.evaluate", f"--workdir={tmp_path}/copy", "--checkpoint=18", "--evals=knn")
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / "copy" / "results.json").read_text())
  assert {(r["metric"], r["protocol"]["step"]) for r in rows} >= {("knn", 18)}
  assert "raw pixels" in done.stdout and "untrained encoder" in done.stdout


def test_an_interrupt_outside_of_training_is_said_in_a_line(tmp_path):
  """As in the evaluation at the end, when all that was trained is saved."""
  code = ("from jepa import main, train\n"
          "def run(*args, **kw): raise KeyboardInterrupt\n"
          "train.run = run\nmain.run()")
  done = subprocess.run([sys.executable, "-c", code, "--config=configs/quickstart.py", f"--workdir={tmp_path}"],
                        cwd=runs.ROOT, capture_output=True, text=True)
  assert done.returncode == 130 and "the same command goes on" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart"])
def test_after_a_short_run_nothing_has_collapsed_and_knn_beats_chance(name, tmp_path):
  c = runs.config(name, None, total="60 steps", mesh=dict(data=-1, fsdp=1, tensor=1))
  c.eval.online, c.eval.final, c.eval.report, c.eval.alarm = (), ("knn", "collapse"), False, "stop"
  assert train.run(c, tmp_path) == 0
  values = {r["metric"]: r["mean"] for r in json.loads((tmp_path / "results.json").read_text())
            if r["row"] == "trained encoder"}
  assert values["knn"] > 0.5 and values["rankme"] > 5
