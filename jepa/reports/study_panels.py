"""Panels of a study's page: every run at a glance, one metric against another, while training, against x."""
from collections.abc import Callable, Mapping, Sequence
import os
from pathlib import Path
from typing import Any

from absl import logging
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

from jepa.evals import results
from jepa.reports import curves, style
from jepa.reports.metrics import accuracies, percent, scale, title
from jepa.reports.study_rows import FLOOR, Result, Row, text
from jepa.reports.style import FAINT, INK

FIGURES = ("bars", "curves", "lines")
COLOURS = (*style.BLOCKS, "#17a0b4", "#8a5a44", "#5b6b00", "#1d2430", "#f28cb1", "#7fb3e6")
DASHES = (":", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))


def draw(rows: Sequence[Row], runs: Sequence[Result], folder: Path, *, figure: str, metric: str, x: str = "",
         chance: float = 0.0) -> dict[str, tuple[str, str]]:
  """Draws what there are numbers for: path -> (title, caption), the main metric first. figure: of FIGURES."""
  numbers = [r for r in rows if r["group"] != FLOOR and r["mean"] is not None]
  shown = [m for m in dict.fromkeys([metric, *accuracies(numbers)]) if any(r["metric"] == m for r in numbers)]
  interval = "the 95 % confidence interval of the mean over seeds"
  made = {}

  def add(head: str, caption: str, panel: Callable[..., str], *args, path: str, **options) -> None:
    try:
      made[panel(*args, path=folder / path, **options)] = head, caption
    except ValueError as error:
      logging.info("no figure %s: %s", path, error)

  if figure == "curves":
    add("While training",
        "Evaluations of the frozen encoder while it trains: lines are means over seeds, bands their range. "
        "Step 0 is the untrained encoder. A relative standard deviation near 0 is collapse to a point, a "
        "RankMe near 1 to a line; dashed: without what prevents it.",
        training, runs, path="training.png", chance=chance)
  for m in shown:
    if figure == "lines":
      add(title(m), f"Bands: {interval}. Grey: floors on the same data.", lines, rows, m, path=f"{m}.png",
          x=x, chance=chance)
    else:
      add(title(m), f"Whiskers: {interval}. Vertical lines: floors.", dots, rows, m, path=f"{m}.png",
          chance=chance)
  if figure == "bars":
    add("Accuracy and speed", "Throughput of the train step where the study was made, input included.",
        scatter, rows, metric, "images_per_s", path="speed.png")
  return made


def dots(rows: Sequence[Row], metric: str, *, path: str | os.PathLike, chance: float = 0.0) -> str:
  """One metric of all runs: a dot and the interval of each, sorted within its group; floors as vertical
  lines."""
  factor = scale(metric)
  groups = list(dict.fromkeys(r["group"] for r in rows if r["group"] != FLOOR))
  lines = []              # (y, group or row)
  y = 0.0
  for group in groups:
    own = {r["name"]: r for r in rows if r["group"] == group and r["metric"] in ("failed", metric)}
    if not own:
      continue
    if group:
      lines.append((y, group))
      y += 0.95
    for r in sorted(own.values(), key=lambda r: -np.inf if r["mean"] is None else r["mean"], reverse=True):
      lines.append((y, r))
      y += 1
    y += 0.35
  numbers = [r for _, r in lines if isinstance(r, dict) and r["mean"] is not None]
  if not numbers:
    raise ValueError(f"no run has the metric {metric!r}: there is nothing to draw")
  with rc_context(style.STYLE):
    figure = Figure(figsize=(7.6, 0.235 * y + 1.05), layout="constrained")
    ax = figure.subplots()
    margin = ax.get_yaxis_transform()
    for at, r in lines:
      if not isinstance(r, dict):
        ax.text(-0.015, at, r, transform=margin, ha="right", va="center", weight="bold", fontsize=9,
                color=COLOURS[groups.index(r) % len(COLOURS)])
        continue
      colour = COLOURS[groups.index(r["group"]) % len(COLOURS)]
      ax.text(-0.015, at, r["label"], transform=margin, ha="right", va="center", fontsize=9)
      ax.text(1.02, at, "failed" if r["mean"] is None else text(r, metric), transform=margin, va="center",
              fontsize=8.5, color=FAINT if r["mean"] is None else INK)
      ax.axhline(at, color="#eef0f3", lw=0.8, zorder=0)
      if r["mean"] is not None:
        ax.errorbar(factor * r["mean"], at, xerr=None if r["ci95"] is None else factor * r["ci95"], fmt="o",
                    ms=5.5, color=colour, capsize=2.5, lw=1.5, zorder=3)
    near = percent(metric) and 0 < chance and min(r["mean"] for r in numbers) < 2 * chance
    floors = [r for r in rows if r["group"] == FLOOR and r["metric"] == metric]
    # Intervals of few seeds can be wider than everything else: the dots and floors set the scale.
    seen = [factor * r["mean"] for r in (*numbers, *floors)]
    ax.set_xlim(*_limits([*seen, *([100 * chance] if near else [])], factor))
    for i, r in enumerate(floors):
      ax.axvline(factor * r["mean"], color=style.COLOURS[r["name"]], ls=DASHES[i % len(DASHES)], lw=1.3,
                 zorder=1, label=f"{r['label']}{_at(r)}  {text(r, metric)}")
    if near:
      ax.axvline(100 * chance, color=INK, lw=0.8, zorder=1, label=f"chance  {100 * chance:.1f}")
    ax.set(ylim=(y - 0.1, -0.75), yticks=[], xlabel=title(metric))
    ax.grid(False, axis="y")
    if ax.get_legend_handles_labels()[0]:
      figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=2.2)
    return style.save(figure, path)


def scatter(rows: Sequence[Row], metric: str, against: str, *, path: str | os.PathLike) -> str:
  """A dot for each run: one metric against another, named where there is room."""
  groups = list(dict.fromkeys(r["group"] for r in rows if r["group"] != FLOOR))
  by = {(r["name"], r["metric"]): r for r in rows if r["group"] != FLOOR}
  points = [(r, by[name, against]) for (name, m), r in by.items() if m == metric and (name, against) in by]
  if len(points) < 2:
    raise ValueError(f"fewer than two runs have both {metric!r} and {against!r}: there is nothing to draw")
  x = np.array([scale(against) * p["mean"] for _, p in points])
  y = np.array([scale(metric) * r["mean"] for r, _ in points])
  with rc_context(style.STYLE):
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    ax = figure.subplots()
    for i, group in enumerate(groups):
      chosen = np.array([r["group"] == group for r, _ in points])
      if chosen.any():
        ax.scatter(x[chosen], y[chosen], s=30, color=COLOURS[i % len(COLOURS)], label=group or None, zorder=3)
    if x.min() > 0 and x.max() > 4 * x.min():
      ax.set_xscale("log")
      ax.set_xlim(x.min() / 1.15, x.max() * 1.35)
      ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.4g}"))
      ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    else:
      ax.margins(x=0.12)
    ax.margins(y=0.08)
    ax.set(xlabel=title(against), ylabel=title(metric))
    if any(groups):
      figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, handletextpad=0.2)
    FigureCanvasAgg(figure).draw()        # sizes of letters are known only now
    _name_points(ax, x, y, [r["label"] for r, _ in points])
    return style.save(figure, path)


def training(runs: Sequence[Result], *, path: str | os.PathLike, chance: float = 0.0,
             metrics: Sequence[str] = ("knn", "rankme", "std_relative")) -> str:
  """One plot a metric against steps, a line a run: the mean over its seeds, and their range. A run that is
  called NAME-none is dashed in the colour of NAME."""
  names = list(dict.fromkeys(r.name for r in runs if r.history))
  curve = lambda name, metric: _curve([r for r in runs if r.name == name], metric)
  found = {m: {n: c for n in names if (c := curve(n, m))} for m in metrics}
  found = {m: by_name for m, by_name in found.items() if by_name}
  if not found:
    raise ValueError("no evaluation while training in metrics.jsonl: set config.eval.online and "
                     "config.eval.every")
  labels = {r.name: r.label for r in runs}
  bases = list(dict.fromkeys(n.removesuffix("-none") for n in names if n != "none"))
  colour = lambda base: COLOURS[bases.index(base) % len(COLOURS)]
  styles = {n: dict(label=labels[n], color=INK if n == "none" else colour(n.removesuffix("-none")),
                    ls=(0, (3, 1.6)) if n == "none" or n.endswith("-none") else "-") for n in names}
  shown = [labels[n] for n in names if any(n in by_name for by_name in found.values())]
  letters = max(map(len, shown)) + 6              # of an entry of the legend, its line included
  ncols = -(-len(shown) // 12)
  spare = len(found) == 3 and ncols * letters <= 56     # the fourth cell of two by two holds the legend
  columns = 2 if spare or len(found) == 4 else len(found)
  rows = -(-len(found) // columns)
  ncols = ncols if spare else max(1, min(4, 110 // letters))
  with rc_context(style.STYLE):
    figure = Figure(figsize=(7.8, 3.0 * rows + (0 if spare else 0.2 * -(-len(shown) // ncols) + 0.2)),
                    layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (metric, by_name) in zip(grid, found.items()):
      _evaluations(ax, metric, by_name, styles, chance)
    handles = {label: h for ax in grid for h, label in zip(*ax.get_legend_handles_labels())}
    for ax in grid[len(found):]:
      ax.axis("off")
    place = dict(handles=list(handles.values()), labels=list(handles), handlelength=2.4, ncols=ncols)
    if spare:
      grid[-1].legend(**place, loc="center left", borderaxespad=0)
    else:
      figure.legend(**place, loc="outside lower center")
    return style.save(figure, path)


def _evaluations(ax: Axes, metric: str, curves: Mapping[str, tuple[np.ndarray, ...]],
                 styles: Mapping[str, Mapping[str, Any]], chance: float) -> None:
  """Curves of one metric, as of `_curve`, and the styles of their lines, by name of the run."""
  factor = scale(metric)
  for name, (step, low, mean, high) in curves.items():
    ax.plot(step, factor * mean, **styles[name], lw=1.6, zorder=3)
    ax.fill_between(step, factor * low, factor * high, color=styles[name]["color"], alpha=0.13, lw=0,
                    zorder=2)
  values = np.concatenate([factor * low for _, low, _, _ in curves.values()])
  if not percent(metric):
    # What collapses does so by orders of magnitude.
    if values.max() > 30 * values.min():
      ax.set_yscale("log")
      ax.set_ylim(bottom=max(values.min(), 1e-6 * values.max()) / 1.4)
      ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    else:
      ax.set_ylim(0, ax.get_ylim()[1])
  elif chance > 0:
    ax.axhline(100 * chance, color=FAINT, lw=1.1, ls=":", zorder=1)
    ax.annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"), xytext=(-2, -2),
                textcoords="offset points", ha="right", va="top", fontsize=8, color=FAINT)
    ax.set_ylim(bottom=0)
  ax.set(title=title(metric), xlabel="step")
  ax.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))


def _curve(runs: Sequence[Result], metric: str) -> tuple[np.ndarray, ...] | None:
  """(steps, low, mean, high) over seeds, at the steps that all of them have; from the untrained encoder at 0
  to the result at the end, where these were measured on the same examples."""
  seeds = []
  for r in runs:
    points = dict(curves.series(r.history, f"eval/{metric}"))
    if not points:
      continue
    start = [f for f in r.floors if f["row"] == results.UNTRAINED and f["metric"] == metric]
    end = [f for f in r.rows if f["row"] == results.TRAINED and f["metric"] == metric]
    if start:
      points[0] = start[0]["mean"]
      if end and end[0]["protocol"].get("train") == start[0]["protocol"].get("train"):
        points[end[0]["protocol"]["step"]] = end[0]["mean"]
    seeds.append(points)
  common = sorted(set.intersection(*(set(p) for p in seeds))) if seeds else []
  if not common:
    return None
  y = np.array([[p[s] for s in common] for p in seeds])
  return np.array(common), y.min(0), y.mean(0), y.max(0)


def lines(rows: Sequence[Row], metric: str, *, path: str | os.PathLike, x: str = "",
          chance: float = 0.0) -> str:
  """One metric against the x coordinate, a line a label with its interval as a band; floors grey."""
  factor = scale(metric)
  series: dict[tuple[bool, str], list] = {}
  for r in rows:
    if r["metric"] == metric and r["mean"] is not None:
      series.setdefault((r["group"] == FLOOR, r["label"]), []).append(r)
  at = sorted({r["x"] for (floor, _), own in series.items() if not floor for r in own if r["x"] is not None})
  if not at:
    raise ValueError(f"no run has both an x and the metric {metric!r}: there is nothing to draw")
  labels = [label for floor, label in series if not floor]
  with rc_context(style.STYLE):
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    tags, floors = [], 0
    for (floor, label), own in series.items():
      own = sorted(own, key=lambda r: -np.inf if r["x"] is None else r["x"])
      if own[0]["x"] is None:             # the same at every x
        own = [own[0] | {"x": v} for v in at]
      where = np.array([r["x"] for r in own])
      mean = factor * np.array([r["mean"] for r in own])
      half = factor * np.array([r["ci95"] or 0.0 for r in own])
      if floor:
        ax.plot(where, mean, color=style.COLOURS[results.PIXELS], ls=DASHES[floors % len(DASHES)], lw=1.4,
                zorder=2)
        floors += 1
        colour = FAINT
      else:
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        ax.plot(where, mean, color=colour, marker="o", ms=4.5, zorder=4)
        ax.fill_between(where, mean - half, mean + half, color=colour, alpha=0.16, lw=0, zorder=3)
      tags.append((mean[-1], label, colour))
    if chance > 0 and percent(metric):
      ax.axhline(100 * chance, color=INK, lw=0.8, zorder=1)
      tags.append((100 * chance, "chance", INK))
    means = [factor * r["mean"] for own in series.values() for r in own]
    ax.set_ylim(*_limits([*means, *([100 * chance] if chance and percent(metric) else [])], factor))
    ax.set(xlabel=x, ylabel=title(metric), xticks=at if len(at) <= 12 else ax.get_xticks())
    style.tags(ax, tags)
    return style.save(figure, path)


def _at(row: Row) -> str:
  return "" if row["x"] is None else f" at {row['x']:g}"


def _limits(values: Sequence[float], scale: float) -> tuple[float, float]:
  low, high = min(values), max(values)
  room = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
  return low - room, min(high + room, 101.0) if scale == 100 else high + room


def _name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
  """Names beside points: each where it covers the fewest others, the crowded ones last."""
  points = ax.transData.transform(np.column_stack([x, y]))
  frame, dots = ax.get_window_extent(), [(*(p - 6), *(p + 6)) for p in points]
  taken: list[tuple[float, ...]] = []
  places = [(7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 7, "center", "bottom"),
            (0, -7, "center", "top"), (5, 5, "left", "bottom"), (5, -5, "left", "top"),
            (-5, 5, "right", "bottom"), (-5, -5, "right", "top"), (14, 12, "left", "bottom"),
            (14, -12, "left", "top"), (-14, 12, "right", "bottom"), (-14, -12, "right", "top")]
  crowd = [int(np.sum(np.linalg.norm(points - p, axis=1) < 60)) for p in points]
  shared = lambda a, b, i: max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]))
  overlap = lambda a, b: shared(a, b, 0) * shared(a, b, 1)
  for i in np.argsort(crowd, kind="stable"):
    note = ax.annotate(names[i], (x[i], y[i]), xytext=(0, 0), textcoords="offset points", fontsize=8.5)
    best = None
    for order, (dx, dy, ha, va) in enumerate(places):
      note.set(ha=ha, va=va, position=(dx, dy))
      box = note.get_window_extent().extents
      outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1) + max(0, box[3] - frame.y1)
      cost = (sum(overlap(box, b) for b in taken) + sum(overlap(box, d) for j, d in enumerate(dots) if j != i)
              + 50 * outside + order)
      if best is None or cost < best[0]:
        best = cost, dict(ha=ha, va=va, position=(dx, dy)), tuple(box)
    note.set(**best[1])
    taken.append(best[2])
