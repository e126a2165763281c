"""What a run tells: a progress bar or lines, metrics.jsonl, TensorBoard, the facts of the run, throughput."""
from collections.abc import Mapping
import json
import math
import os
from pathlib import Path
import platform
import subprocess
import sys
import time
from typing import Any

from absl import logging
import jax
import numpy as np
from tqdm import tqdm

OPTIC_NERVE = 20e6            # bytes a second
WAKING_YEAR = 4000 * 3600     # seconds: 16,000 waking hours in four years (LeCun's child)


def optic_years(raw_bytes: float) -> float:
  """Years a child's optic nerve needs for so many bytes."""
  return raw_bytes / OPTIC_NERVE / WAKING_YEAR


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
  """A live bar on a terminal; a line every tenth of the run, and at least every minute,
  where there is none."""

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
            f"{left:.0f} s",
            file=sys.stderr, flush=True)
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
  import flax
  import optax
  devices = jax.devices()
  return {"python": platform.python_version(), "jax": jax.__version__, "flax": flax.__version__,
          "optax": optax.__version__,
          "numpy": np.__version__, "platform": devices[0].platform, "device": devices[0].device_kind,
          "devices": len(devices), "processes": jax.process_count(), "git": git_revision()}


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


def write_json(path: Path, value: Any) -> None:
  """Atomically: a killed process leaves the old file or the new one."""
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")
    temporary.replace(path)


def device_memory() -> float | None:
  """Peak bytes in use on the first local device; None where the backend does not tell."""
  stats = jax.local_devices()[0].memory_stats()
  return float(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None


def quiet_libraries() -> None:
  """Keeps the chatter of libraries (Orbax logs a line a file) out of the terminal; warnings pass."""
  logging.set_verbosity(logging.WARNING)
  logging.use_absl_handler()
