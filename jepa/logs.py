"""What a run tells: a progress bar or lines, metrics.jsonl, TensorBoard, the facts of the run, throughput."""
from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import math
import os
from pathlib import Path
import platform
import subprocess
import sys
import time
from typing import Any

import jax
from jax.extend import core
from tqdm import tqdm


class Writer:
  """metrics.jsonl and TensorBoard in the workdir; only the first process writes."""

  def __init__(self, workdir: Path, *, tensorboard: bool):
    self.active = jax.process_index() == 0
    self._board = None
    if self.active:
      workdir.mkdir(parents=True, exist_ok=True)
      self._file = (workdir / "metrics.jsonl").open("a")
      if tensorboard:
        from tensorboardX import SummaryWriter
        self._board = SummaryWriter(str(workdir / "tensorboard"))

  def __call__(self, step: int, scalars: Mapping[str, float]) -> None:
    if not self.active:
      return
    self._file.write(json.dumps({"step": step}
                                | {k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}) + "\n")
    self._file.flush()
    if self._board:
      for name, value in scalars.items():
        self._board.add_scalar(name, value, step)

  def close(self) -> None:
    if self.active:
      self._file.close()
      if self._board:
        self._board.close()


def history(workdir: Path) -> list[dict]:
  """The records of metrics.jsonl. A record written again after a resume replaces the earlier one;
  a torn last line is dropped."""
  path, records = workdir / "metrics.jsonl", {}
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        record = json.loads(line)
      except json.JSONDecodeError:
        continue
      records.setdefault(record["step"], {}).update(record)
  return [records[step] for step in sorted(records)]


class Progress:
  """A live bar on a terminal; a line every tenth of the run, at least every minute, where there is none."""

  def __init__(self, *, total: int, initial: int, label: str):
    self._active = jax.process_index() == 0
    # Terminals without a width (under some recorders) would show an empty bar: they get lines.
    self._terminal = sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    self._start, self._initial, self._total = time.monotonic(), initial, total
    self._last_line, self._label = 0.0, label
    self._bar = tqdm(total=total, initial=initial, desc=label, unit="step", dynamic_ncols=True, smoothing=0.1,
                     disable=not (self._active and self._terminal))

  def update(self, step: int, scalars: Mapping[str, float]) -> None:
    """Shows the state at `step`; scalars: loss, images/s."""
    now = time.monotonic()
    shown = {"loss": f"{scalars['loss']:.4g}", "img/s": f"{scalars.get('images_per_s', math.nan):,.0f}"}
    if self._terminal:
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update(step - self._bar.n)
    elif self._active and (now - self._last_line > 60 or step == self._total
                           or step * 10 // self._total > (step - 1) * 10 // self._total
                           or not self._last_line):
      left = (now - self._start) / max(1, step - self._initial) * (self._total - step)
      print(f"{self._label}: step {step}/{self._total}  loss {shown['loss']}  {shown['img/s']} images/s  ETA "
            f"{left:.0f} s", file=sys.stderr, flush=True)
      self._last_line = now

  def say(self, text: str) -> None:
    """A line that does not tear the bar."""
    if self._active:
      if self._terminal:
        self._bar.write(text, file=sys.stderr)
      else:
        print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    self._bar.close()


def facts() -> dict[str, Any]:
  """Where and with what a run is made: versions, devices, git revision of the code."""
  devices = jax.devices()
  versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}
  return {"python": platform.python_version(), **versions,
          "platform": devices[0].platform, "device": devices[0].device_kind, "devices": len(devices),
          "processes": jax.process_count(), "git": git_revision()}


def git_revision() -> str:
  """The commit of the code, with "+changes" where the tree differs; "unknown" outside a checkout."""
  here = Path(__file__).parent
  run = lambda *args: subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True,
                                     check=True).stdout.strip()
  try:
    return run("rev-parse", "--short=12", "HEAD") + ("+changes" if run("status", "--porcelain", "-uno")
                                                     else "")
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def write_text(path: Path, text: str) -> None:
  """Atomically: a killed process leaves the old file or the new one. Only the first process writes."""
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
  """`write_text` of a plain tree."""
  write_text(path, json.dumps(value, indent=2, default=str) + "\n")


# ---- throughput ----

OPTIC_NERVE = 20e6            # bytes a second
WAKING_YEAR = 4000 * 3600     # seconds: 16,000 waking hours in four years (LeCun's child)

# Dense bf16 peaks in FLOP/s, from the vendors' data sheets, by a part of jax's device_kind.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "V100": 125e12, "TPU v4": 275e12,
         "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12}


def optic_years(raw_bytes: float) -> float:
  """Years a child's optic nerve needs for so many bytes."""
  return raw_bytes / OPTIC_NERVE / WAKING_YEAR


class Meter:
  """Throughput between reads: images/s, FLOP/s, MFU, input wait, bytes seen."""

  def __init__(self, *, batch: int, length: int, shape: Sequence[int], flops: float, data: Any, first: int):
    """
    Args:
      batch: global. length, shape: of the training set and of one of its examples.
      flops: of a step. data: has `waited`, the seconds that the loop waited for it. first: step to begin at.
    """
    self._batch, self._length, self._raw = batch, length, math.prod(shape)
    self._flops, self._data = flops, data
    self._peak = peak(jax.devices()[0])
    self._reset(first)

  def _reset(self, step: int) -> None:
    self._step, self._time, self._waited = step, time.monotonic(), self._data.waited

  def skip(self, seconds: float) -> None:
    """Leaves out time that was not training."""
    self._time += seconds

  def read(self, step: int) -> dict[str, float]:
    """Scalars since the last read, `step` included."""
    now, waited = time.monotonic(), self._data.waited
    seconds, steps = max(1e-9, now - self._time), step - self._step
    seen = float(step) * self._batch
    raw = seen * float(self._raw)
    out = {"examples": seen, "epochs": seen / self._length, "raw_bytes": raw,
           "optic_nerve_years": optic_years(raw)}
    if steps > 0:
      rate = steps / seconds
      out |= {"images_per_s": rate * self._batch, "flops_per_s": rate * self._flops,
              "input_wait": (waited - self._waited) / seconds}
      if self._peak:
        out["mfu"] = rate * self._flops / self._peak / jax.device_count()
    if (memory := device_memory()) is not None:
      out["device_bytes"] = memory
    self._reset(step)
    return out


def device_memory() -> float | None:
  """Peak bytes in use on the first local device; None where the backend does not tell."""
  stats = jax.local_devices()[0].memory_stats()
  return float(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None


def peak(device: jax.Device) -> float | None:
  """Peak bf16 FLOP/s of a device; None where it is not known (every CPU)."""
  return next((v for k, v in PEAKS.items() if k in device.device_kind), None)


def operations(function: Callable, *args) -> float:
  """Floating-point operations of one call of `function` on (abstract) arguments, over all devices.

  Counted from the jaxpr: matrix products and convolutions, 2 operations a multiply-add, loops times their
  length. XLA's own cost analysis counts the body of a loop once, which would lose every layer but one of a
  scanned tower.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name, p = eqn.primitive.name, eqn.params
    if name == "dot_general":
      (contract, _), _ = p["dimension_numbers"]
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i]
                                                                    for i in contract)
    elif name == "conv_general_dilated":
      kernel = eqn.invars[1].aval.shape
      per_output = math.prod(kernel) / kernel[p["dimension_numbers"].rhs_spec[0]]
      # of a strided convolution's gradient: rows of zeros are not multiplied
      zeros = math.prod(p["lhs_dilation"])
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * per_output / zeros
    elif name == "cond":
      total += max(_count(b.jaxpr) for b in p["branches"])
    else:
      times = p["length"] if name == "scan" else 1
      total += times * sum(_count(j) for j in _inner(p))
  return total


def _inner(params):
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
