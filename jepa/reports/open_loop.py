"""The picture of open-loop prediction: how far a world model's imagination is from what it later saw."""
from collections.abc import Sequence
import os
from pathlib import Path

from matplotlib import rc_context, ticker
from matplotlib.figure import Figure
import numpy as np

from jepa.evals import open_loop, results
from jepa.reports import style

PANELS = {"open_loop": "distance (1: of unrelated frames)", "position_error": "error of the position read"}


def write(rows: Sequence[results.Row], path: str | os.PathLike, *, row: str) -> Path | None:
  """Writes the curves of one row against steps imagined; None where there are none."""
  by = {r["metric"]: r["protocol"]["outcome"]["by_step"] for r in rows
        if r["row"] == row and "by_step" in r["protocol"].get("outcome", {})}
  panels = [(m, title) for m, title in PANELS.items() if m in by]
  if not panels:
    return None
  with rc_context(style.STYLE):
    figure = Figure(figsize=(4.6 * len(panels), 3.2), layout="constrained")
    for ax, (metric, title) in zip(np.ravel(figure.subplots(1, len(panels))), panels):
      for kind, label in open_loop.KINDS.items():
        if metric + kind in by:
          ax.plot(np.arange(1, len(by[metric + kind]) + 1), by[metric + kind], label=label)
      ax.set_xlabel("steps imagined")
      ax.set_ylabel(title)
      ax.set_ylim(bottom=0)
      ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
      ax.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
  return path
