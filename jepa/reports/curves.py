"""Curves of a run against its steps: the training loss, probes with their floors, collapse statistics."""
from collections.abc import Mapping, Sequence
import itertools
import math
import os
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from jepa.evals import results
from jepa.reports import metrics, style
from jepa.reports.style import COLOURS, FAINT

STATISTICS = {"rankme": "RankMe", "std": "mean feature std"}
_PROBES = (COLOURS[results.TRAINED], "#0b9e73", "#c65ba0", "#8c6d1f", "#5b4ccc")
_FLOORS = ((results.PIXELS, ":"), (results.UNTRAINED, "--"))

Points = list[tuple[float, float]]      # (step, value)


def draw(history: Sequence[Mapping[str, Any]], rows: Sequence[results.Row] = (), *,
         path: str | os.PathLike) -> str:
  """A plot of each of the three that there are numbers for.

  Args:
    history: records of metrics.jsonl: "step", "loss", and "eval/<metric>" where there was an evaluation.
    rows: results; those of the trained encoder add points at their step, the others are floors.

  Raises:
    ValueError: there is nothing to draw.
  """
  logged = dict.fromkeys(k.removeprefix("eval/") for r in history for k in r if k.startswith("eval/"))
  accuracies = metrics.accuracies([*({"metric": m} for m in logged), *rows])
  loss = series(history, "loss")
  probes, statistics = ({m: found for m in names if (found := _points(history, rows, m))}
                        for names in (accuracies, STATISTICS))
  shown = bool(loss) + bool(probes) + bool(statistics)
  if not shown:
    raise ValueError("no loss, probe or statistic in the history and rows: there is no curve to draw")
  with rc_context(style.STYLE):
    figure = Figure(figsize=(4.1 * shown, 3.3), layout="constrained")
    axes = iter(np.atleast_1d(figure.subplots(1, shown)))
    if loss:
      _loss(next(axes), loss)
    if probes:
      _probes(next(axes), probes, results.latest(rows))
    if statistics:
      _statistics(next(axes), statistics)
    return style.save(figure, path)


def series(history: Sequence[Mapping[str, Any]], key: str) -> Points:
  """What the log has under a key; without what is not finite, which the log has as strings."""
  finite = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
  found = {r["step"]: r[key] for r in history if key in r and "step" in r}
  return sorted((step, float(v)) for step, v in found.items() if finite(v))


def shots(rows: Mapping[tuple[str, str], results.Row]) -> int:
  """Labels a class of the low-shot probe. rows: the latest results."""
  settings = [r["protocol"].get("settings", {}) for (_, metric), r in rows.items() if metric == "lowshot"]
  return settings[0].get("labels", 10) if settings else 10


def _points(history: Sequence[Mapping[str, Any]], rows: Sequence[results.Row], metric: str) -> Points:
  """Of the trained encoder: logged while training, then results with a step; from the untrained one at 0."""
  points = dict(series(history, f"eval/{metric}"))
  for r in rows:
    step = r["protocol"].get("step")
    if r["metric"] == metric and (r["row"] == results.UNTRAINED
                                  or (r["row"] == results.TRAINED and step is not None)):
      points[0 if r["row"] == results.UNTRAINED else step] = r["mean"]
  return sorted(points.items()) if any(step > 0 for step in points) else []


def _loss(ax: Axes, loss: Points) -> None:
  x, y = np.asarray(loss).T
  smooth = _median(y)
  ax.plot(x, y, color=COLOURS[results.TRAINED], alpha=0.3, lw=0.9)
  ax.plot(x, smooth, color=COLOURS[results.TRAINED])
  ax.set(title="Training loss", xlabel="step")
  if y.min() > 0 and y.max() > 20 * y.min():
    ax.set_yscale("log")
  elif len(y) > 20:
    # The first steps of a run are often tens of times the rest, which would flatten all of it.
    low, high = y.min(), np.quantile(y, 0.985)
    if y.max() - low > 3 * (high - low) > 0:
      ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
  ax.annotate(f"{smooth[-1]:.4g}", (x[-1], smooth[-1]), xytext=(0, 7), textcoords="offset points", ha="right",
              fontsize=8.5)


def _probes(ax: Axes, curves: Mapping[str, Points], by: Mapping[tuple[str, str], results.Row]) -> None:
  """Accuracies, and their floors as horizontal lines of the same colour. by: the latest results."""
  names = metrics.SHORT | {"linear": "linear, all labels", "lowshot": f"linear, {shots(by)} labels a class",
                           "finetune": "fine-tuned"}
  found = []
  for (metric, points), colour in zip(curves.items(), itertools.cycle(_PROBES)):
    x, y = np.asarray(points).T
    ax.plot(x, 100 * y, color=colour, marker="o", ms=3.5, label=names.get(metric, metric), zorder=3)
    found.append((100 * y[-1], f"{100 * y[-1]:.1f}", colour))
    for row, dash in _FLOORS:
      if (row, metric) in by:
        ax.axhline(100 * by[row, metric]["mean"], color=colour, ls=dash, lw=1.1, alpha=0.75, zorder=2)
  for row, dash in _FLOORS:
    if any((row, metric) in by for metric in curves):
      ax.plot([], [], color=FAINT, ls=dash, lw=1.2, label=row)
  ax.set(title="Probes, accuracy in %", xlabel="step")
  ax.set_ylim(top=min(ax.get_ylim()[1], 100.5))
  style.tags(ax, found)
  ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, columnspacing=1.2, handlelength=1.8)


def _statistics(ax: Axes, curves: Mapping[str, Points]) -> None:
  """Each with its own axis."""
  both = (ax, ax.twinx() if len(curves) > 1 else ax)
  for (metric, points), axis, colour in zip(curves.items(), both, (COLOURS[results.TRAINED], "#d98200")):
    x, y = np.asarray(points).T
    axis.plot(x, y, color=colour, marker="o", ms=3.5)
    axis.set_ylim(0, 1.12 * max(y.max(), 1e-9))
    axis.set_ylabel(STATISTICS[metric], color=colour)
    axis.tick_params(axis="y", colors=colour)
    if axis is not ax:
      axis.grid(False)
      axis.spines["right"].set_visible(True)
  ax.set(title="Collapse watch", xlabel="step")


def _median(y: np.ndarray) -> np.ndarray:
  """Running median over about a twentieth of the curve, shorter at its ends."""
  half = max(1, len(y) // 40)
  return np.array([np.median(y[max(0, i - half):i + half + 1]) for i in range(len(y))])
