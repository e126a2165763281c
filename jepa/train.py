"""The train loop, read from top to bottom: parts, state, restore, loop, end.

Everything is a function of (seed, step). Metrics of step t are read while step t+1 runs. A checkpoint holds
the whole state and the position of the data, so the same command again goes on exactly where the last one
stopped.
"""
import collections
import contextlib
import json
from pathlib import Path
import signal
import threading
import time

from absl import logging
import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from jepa import checkpoint, config as configs, evaluation, experiment, initial, logs, sharding
from jepa.data import pipeline
from jepa.experiment import Experiment

INTERRUPTED = 75  # exit code (EX_TEMPFAIL): saved and stopped by a signal; the same command again continues


class NonFinite(FloatingPointError):
  """The loss or gradient of a step is not finite; the last checkpoint is good."""


class Collapse(RuntimeError):
  """An evaluation found the representation collapsing and config.eval.alarm is "stop"."""


def run(c: ConfigDict, workdir: str | Path, *, profile: tuple[int, int] | None = None) -> int:
  """Trains the run that `c` describes in `workdir`; returns an exit code: 0, or INTERRUPTED.

  Args:
    profile: (first step, number of steps) to trace into workdir/profile.

  Raises:
    ValueError: the config does not fit. checkpoint.Mismatch: the workdir holds another run.
    NonFinite, Collapse: see there.
  """
  workdir = Path(workdir)

  # 1. Parts.
  exp = experiment.build(c)
  cfg, total = exp.config, exp.total
  table = sharding.describe(exp.abstract, exp.shardings, exp.mesh, cfg["replicated_tolerance"])

  with jax.set_mesh(exp.mesh), contextlib.ExitStack() as stack:
    interrupted = stack.enter_context(_signals())

    # 2. State: resume > named checkpoint > encoder only > scratch.
    checkpointer = stack.enter_context(checkpoint.open(
        workdir / "checkpoints", keep=cfg["checkpoint"]["keep"],
        milestones=cfg["checkpoint"]["milestones"] or 0))
    _compare_with_saved(workdir, c)
    state, position, origin = initial.start(exp, checkpointer)
    first = int(state.step)
    _record(workdir, c, table)
    if first >= total:
      logging.warning("%s is already trained to step %d of %d", workdir, first, total)

    # 3. Data, from where the checkpoint left it.
    data = _data(exp, position)
    stack.callback(data.close)

    # 4. Compile ahead, for its time and its operations.
    step_fn, compile_s, flops = _compiled(exp)

    # 5. Floors of the evaluations, once, before the first step.
    write = logs.Writer(workdir, tensorboard=cfg["log"]["tensorboard"])
    stack.callback(write.close)
    probe = evaluation.online(exp, workdir)

    # 6. The loop.
    tell = _Tell(exp, write, flops, data, first)
    stack.callback(tell.bar.close)
    tell.bar.say(f"{cfg['method']} {origin}: {total} steps of {cfg['batch']} on {jax.device_count()} x "
                 f"{jax.devices()[0].device_kind}, {flops:.3g} FLOPs a step, compiled in {compile_s:.1f} s")
    every = {k: max(1, cfg[k]["every"]) for k in ("checkpoint", "eval", "log")}
    for step in range(first + 1, total + 1):
      with _profile(profile, step, workdir):
        batch = next(data)
        state, metrics = step_fn(state, batch)
      tell.add(step, metrics, batch["index"])
      if (step - 1) % every["log"] == 0:
        tell.settle(step - 1)   # while `step` runs
      stop = interrupted(step % every["log"] == 0)
      if step % every["checkpoint"] == 0 or step == total or stop:
        tell.settle(step)       # a bad step is found before anything is saved
        checkpoint.save(checkpointer, state, data=data.get_state(), config=configs.plain(c))
      if stop:
        checkpointer.wait()
        tell.bar.say(f"interrupted: saved step {step} in {workdir}; the same command again continues")
        return INTERRUPTED
      if step % every["eval"] == 0 and step < total:
        tell.settle(step)
        alarms = tell.evaluated(step, lambda: probe(state, step, tell.last))
        _alarm(alarms, cfg["eval"]["alarm"], tell.bar)
    checkpointer.wait()

  # 7. The end: the evaluations of the paper, the table, the pictures. All is saved, so a signal may end it at
  # once; the same command again comes back here.
  with jax.set_mesh(exp.mesh):
    alarms = evaluation.final(exp, state, workdir)
  _alarm(alarms, cfg["eval"]["alarm"], tell.bar)
  return 0


def _data(exp: Experiment, position: dict):
  """Batches on the mesh, prepared ahead, from `position` on."""
  c, on_batch = exp.config, sharding.of_batch(exp.mesh)
  stream = pipeline.train(exp.train, batch=c["batch"], seed=c["seed"], workers=c["data"]["workers"])
  if position:
    stream.set_state(position)
  return pipeline.prefetch(stream, lambda b: pipeline.put(b, on_batch), depth=c["data"]["prefetch"])


def _compiled(exp: Experiment):
  """(the compiled train step, which overwrites the state it is given; seconds that took; its operations)."""
  clock = time.monotonic()
  step = jax.jit(exp.step, in_shardings=(exp.shardings, sharding.of_batch(exp.mesh)),
                 out_shardings=(exp.shardings, sharding.replicated(exp.mesh)),
                 donate_argnums=0).lower(exp.abstract, exp.batch).compile()
  return step, time.monotonic() - clock, logs.operations(exp.step, exp.abstract, exp.batch)


class _Tell:
  """What the loop tells of its steps: the bar, the log, and whether they are finite.

  Attributes:
    last: the newest logged scalars.
  """

  def __init__(self, exp: Experiment, write: logs.Writer, flops: float, data, first: int):
    self.last: dict[str, float] = {}
    self.bar = logs.Progress(total=exp.total, initial=first, label=exp.config["method"])
    self._exp, self._write, self._every = exp, write, max(1, exp.config["log"]["every"])
    self._watch = _Watch(exp.config["nonfinite"])
    self._meter = logs.Meter(batch=exp.config["batch"], length=exp.train.length, shape=exp.train.shape,
                             flops=flops, data=data, first=first)

  def add(self, step: int, metrics, index: jax.Array) -> None:
    self._watch.add(step, metrics, index)

  def settle(self, upto: int) -> None:
    """Reads the metrics of finished steps: stops on non-finite ones, and logs."""
    for step, scalars in self._watch.read(upto):
      if step % self._every == 0 or step == self._exp.total:
        scalars |= self._meter.read(step) | {k: float(f(step)) for k, f in self._exp.schedules.items()}
        self._write(step, scalars)
        self.bar.update(step, scalars)
        self.last.update(scalars)

  def evaluated(self, step: int, probe) -> list[str]:
    """Logs the scalars of probe() -> (scalars, alarms); its time is none of training. Returns the alarms."""
    pause = time.monotonic()
    scalars, alarms = probe()
    if scalars:
      self._write(step, scalars)
      shown = "  ".join(f"{k.removeprefix('eval/')} {v:.4g}" for k, v in scalars.items())
      self.bar.say(f"step {step}: {shown}")
    self._meter.skip(time.monotonic() - pause)
    return alarms


class _Watch:
  """Metrics on their way: kept on the device until read, in order, and checked for being finite."""

  def __init__(self, tolerate: int):
    self._pending, self._tolerate, self._bad = collections.deque(), tolerate, 0

  def add(self, step: int, metrics, index: jax.Array) -> None:
    self._pending.append((step, metrics, index))

  def read(self, upto: int):
    """Yields (step, scalars) of pending steps up to `upto`.

    Raises:
      NonFinite: more steps than tolerated were not finite.
    """
    while self._pending and self._pending[0][0] <= upto:
      step, metrics, index = self._pending.popleft()
      scalars = {k: float(v) for k, v in jax.device_get(metrics).items()}
      if scalars["skipped"]:
        self._bad += 1
        local = sorted(int(i) for shard in index.addressable_shards for i in np.ravel(shard.data))
        text = (f"step {step}: loss {scalars['loss']}, gradient norm {scalars['grad_norm']}. "
                f"The step changed nothing; its batch held examples {sorted(set(local))}")
        if self._bad > self._tolerate:
          raise NonFinite(f"{text}. {self._bad} such steps, {self._tolerate} tolerated (config.nonfinite). "
                          "The last checkpoint is good: lower the learning rate, clip gradients "
                          "(config.optim.clip), or look at those examples")
        logging.error("%s. Skipped (%d of %d tolerated)", text, self._bad, self._tolerate)
      yield step, scalars | {"skipped_steps": float(self._bad)}


@contextlib.contextmanager
def _signals():
  """interrupted(agree): whether SIGTERM or Ctrl-C came. Processes agree on it, at the steps where `agree` is
  true, so that none waits for another in a collective. A second Ctrl-C stops at once."""
  came = threading.Event()

  def handle(number, frame):
    if came.is_set() and number == signal.SIGINT:
      raise KeyboardInterrupt
    came.set()
    logging.warning("%s: saving at the end of this step", signal.Signals(number).name)

  def interrupted(agree: bool) -> bool:
    if jax.process_count() == 1:
      return came.is_set()
    return agree and bool(np.any(multihost_utils.process_allgather(np.int32(came.is_set()))))

  main = threading.current_thread() is threading.main_thread()
  old = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)} if main else {}
  try:
    yield interrupted
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def _profile(window, step: int, workdir: Path):
  if window and step == window[0]:
    jax.profiler.start_trace(str(workdir / "profile"))
  yield
  if window and step == window[0] + window[1] - 1:
    jax.effects_barrier()
    jax.profiler.stop_trace()


def _alarm(alarms: list[str], policy: str, bar: logs.Progress) -> None:
  if policy == "off":
    return
  for text in alarms:
    bar.say(f"COLLAPSE ALARM: {text}")
  if alarms and policy == "stop":
    raise Collapse("; ".join(alarms))


def _compare_with_saved(workdir: Path, c: ConfigDict) -> None:
  """The workdir's config must name the same method and arguments; other changes are told.

  Raises:
    checkpoint.Mismatch: they differ.
  """
  if not (workdir / "config.json").exists() or not checkpoint.steps(workdir / "checkpoints"):
    return
  old, new = (_flat(json.loads(json.dumps(t, default=str))) for t in (
      initial.saved_config(workdir).to_dict(), configs.plain(c)))
  changed = [f"{k}: {old.get(k, 'absent')} in the workdir, {new.get(k, 'absent')} now"
             for k in sorted(old | new) if old.get(k, "absent") != new.get(k, "absent")]
  fatal = [line for line in changed
           if line.split(":")[0].split(".")[0] in ("method", "args", "seed", "batch")]
  if fatal:
    raise checkpoint.Mismatch(f"{workdir} holds another run:\n  " + "\n  ".join(fatal)
                              + "\nUse another --workdir; to start from its weights "
                              f"add --config.init.checkpoint={workdir} or --config.init.encoder={workdir}")
  for line in changed:
    logging.warning("config changed since the workdir was written: %s", line)


def _flat(tree: dict, prefix: str = "") -> dict:
  out = {}
  for key, value in tree.items():
    out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
  return out


def _record(workdir: Path, c: ConfigDict, table: str) -> None:
  """config.json, parameters.txt and facts.json; only the first process writes."""
  logs.write_json(workdir / "config.json", configs.plain(c))
  logs.write_json(workdir / "facts.json", logs.facts())
  logs.write_text(workdir / "parameters.txt", table)
