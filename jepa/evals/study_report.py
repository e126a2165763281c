"""The results of many runs: rows with confidence intervals, a table, figures, one page.

A row of a study's results.json is {"name", "label", "group", "x", "metric", "mean", "sd", "ci95", "seeds",
"failed"}: of the trained encoder, over seeds. ci95 is the half-width of the 95 % confidence interval of the
mean (Student t), null with one seed; failed, the messages of seeds that have no number. Floors have the group
"floor", the name "raw pixels" or "untrained encoder", and "runs", the names of those they belong to.
"""
import base64
from collections.abc import Mapping, Sequence
import html
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from scipy import special

from jepa.evals import features as F, report, suite
from jepa.evals.report import FAINT, INK

FIGURES = ("bars", "curves", "lines")
FAMILIES = ("contrastive", "non-contrastive", "masked latent", "reconstruction", "supervised", "world model")
FLOOR = "floor"
FACTS = ("images_per_s", "steps", "parameters", "flops_total", "seconds")      # of study.json, as metrics
PERCENT = tuple(m for m, *_, kind in suite.COLUMNS if kind == "percent")
COLOURS = (*report.BLOCKS, "#17a0b4", "#8a5a44", "#5b6b00", "#1d2430", "#f28cb1", "#7fb3e6")
DASHES = (":", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))

Row = dict[str, Any]


class Result(NamedTuple):
  """One run with one seed, as its folder has it."""

  name: str
  label: str
  group: str
  x: float | None
  seed: int
  record: Mapping[str, Any]         # study.json: steps, images_per_s, ...
  rows: Sequence[F.Row]             # results.json; [] where the run is not finished or failed
  history: Sequence[Mapping[str, Any]] = ()      # metrics.jsonl
  floors: Sequence[F.Row] = ()                   # floors.json: measured as the evaluations while training are
  config: Mapping[str, Any] = {}
  facts: Mapping[str, Any] = {}
  failed: str = ""                  # what went wrong


# Rows


def summarise(results: Sequence[Result]) -> list[Row]:
  """Rows of the floors, then of the runs in the order of `results`; a run of which nothing is finished or
  failed has none."""
  rows = _floors(results)
  for name in dict.fromkeys(r.name for r in results):
    own = [r for r in results if r.name == name]
    done = [r for r in own if r.rows]
    failed = [f"seed {r.seed}: {r.failed}" for r in own if r.failed]
    try:
      combined = suite.combine([r.rows for r in done]) if done else []
    except ValueError as error:     # seeds that were evaluated in different ways have no mean
      combined, failed = [], [*failed, f"seed {', '.join(str(r.seed) for r in done)}: {error}"]
      done = []
    values = {c["metric"]: (c["mean"], c["sd"], c["seeds"]) for c in combined if c["row"] == suite.TRAINED}
    for fact in FACTS:
      if found := [r.record[fact] for r in done if r.record.get(fact) is not None]:
        c = F.result(name, fact, found, {})
        values[fact] = c["mean"], c["sd"], c["seeds"]
    if failed and not values:
      values["failed"] = None, None, 0
    rows += [_row(own[0], metric, *v, failed=failed) for metric, v in values.items()]
  return rows


def half_width(sd: float, n: int) -> float | None:
  """Of the 95 % confidence interval of a mean of n draws with this standard deviation (Student t)."""
  return float(special.stdtrit(n - 1, 0.975) * sd / n ** 0.5) if n > 1 else None


def _row(of: Result, metric: str, mean: float | None, sd: float | None, seeds: int, *,
         failed: Sequence[str] = ()) -> Row:
  return {"name": of.name, "label": of.label, "group": of.group, "x": of.x, "metric": metric, "mean": mean,
          "sd": sd, "ci95": half_width(sd, seeds) if seeds else None, "seeds": seeds, "failed": list(failed)}


def _floors(results: Sequence[Result]) -> list[Row]:
  """Raw pixels once for every data set; the untrained encoder once for every data set and backbone, each
  seed's number a mean over the runs that share them (their other parts may have drawn other weights)."""
  groups: dict[tuple[str, str], dict] = {}
  for r in results:
    backbone = {"name": "vit"} | dict(r.config.get("args", {}).get("encoder", {}))
    for row in r.rows:
      if row["row"] == suite.TRAINED:
        continue
      p = row["protocol"]
      key = [p.get("train"), p.get("test")]
      if row["row"] == suite.UNTRAINED:
        key += [p.get("features"), backbone]
      group = groups.setdefault((row["row"], json.dumps(key, sort_keys=True, default=str)),
                                {"runs": {}, "x": set(), "encoder": backbone["name"], "values": {}})
      group["runs"][r.name] = r.label
      group["x"].add(r.x)
      group["values"].setdefault(row["metric"], {}).setdefault(r.seed, []).append(row["mean"])
  rows = []
  varies = len({x for g in groups.values() for x in g["x"]}) > 1
  for (name, key), group in groups.items():
    # of the same metrics: fine-tuning and segmentation call the features otherwise
    others = [g for (n, k), g in groups.items() if n == name and k != key and g["values"].keys() & group["values"]]
    x = next(iter(group["x"])) if varies and len(group["x"]) == 1 else None
    label = name
    if name == suite.UNTRAINED and any(g["encoder"] != group["encoder"] for g in others):
      label = f"untrained {group['encoder']}"
    if any((x is None or g["x"] == group["x"]) and (name == suite.PIXELS or g["encoder"] == group["encoder"])
           for g in others):      # nothing short tells them apart
      labels = list(dict.fromkeys(group["runs"].values()))
      label += f" of {labels[0]}" + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")
    of = Result(name=name, label=label, group=FLOOR, x=x, seed=0, record={}, rows=[])
    for metric, by_seed in group["values"].items():
      c = F.result(name, metric, [np.mean(v) for v in by_seed.values()], {})
      rows.append(_row(of, metric, c["mean"], c["sd"], c["seeds"]) | {"runs": list(group["runs"])})
  return rows


# The table


def cells(rows: Sequence[Row], *, x: str = "", labels: int | str = 10,
          spread: bool = False) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
  """Titles of the columns, and (name, label, texts) of the lines: floors, then runs in the order of `rows`.

  Args:
    x: title of the x coordinate; "" leaves it out. labels: a class, of the low-shot probe. spread: a column
      with the relative standard deviation of the features.
  """
  metrics = {r["metric"] for r in rows if r["mean"] is not None}
  short = {"linear": "linear", "lowshot": f"{labels} labels a class", "knn": "kNN", "segment": "segmentation",
           "finetune": "fine-tune"}
  columns = [(m, short.get(m, m)) for m in PERCENT if m in metrics]
  others = {"rankme": "RankMe", **({"std_relative": "relative std"} if spread else {}),
            "images_per_s": "images/s", "steps": "steps"}
  columns += [(m, title) for m, title in others.items() if m in metrics]
  lines = {}
  for r in rows:
    lines.setdefault((r["group"] == FLOOR, r["name"], r["label"], r["x"]), {})[r["metric"]] = r
  titles = ["", "group", *([x] if x else []), *(t for _, t in columns)]
  body = []
  for (floor, name, label, at), found in sorted(lines.items(), key=lambda line: not line[0][0]):
    one = next(iter(found.values()))
    done, gone = max(r["seeds"] for r in found.values()), len(one["failed"])
    texts = [text(found.get(m), m) for m, _ in columns]
    if not done:
      texts[:1] = ["failed"]
    if done and gone:
      label = f"{label} ({done} of {done + gone} seeds)"
    where = ["" if at is None else f"{at:g}"] if x else []
    body.append((name, label, ["" if floor else one["group"], *where, *texts]))
  return titles, body


def text(row: Row | None, metric: str) -> str:
  """A number with its interval: accuracies in %."""
  if row is None or row["mean"] is None:
    return "-"
  if metric in ("images_per_s", "steps"):
    return f"{row['mean']:,.0f}" if row["mean"] >= 10 else f"{row['mean']:.2g}"
  scale = 100 if metric in PERCENT else 1
  mean = row["mean"] * scale
  if metric not in PERCENT and abs(mean) < 0.005:       # collapsed
    return f"{mean:.1g}"
  digits = 1 if metric in PERCENT or abs(mean) >= 10 else 2
  ci = "" if row["ci95"] is None else f" ± {row['ci95'] * scale:.{digits}f}"
  return f"{mean:.{digits}f}{ci}"


def legend(rows: Sequence[Row]) -> str:
  """What the numbers of the table are."""
  seeds = sorted({r["seeds"] for r in rows if r["seeds"] and r["group"] != FLOOR})
  if not seeds:
    return "Nothing is finished yet."
  over = "one seed" if seeds == [1] else f"{'-'.join(map(str, sorted({seeds[0], seeds[-1]})))} seeds"
  interval = "" if seeds == [1] else ", ± half the 95 % confidence interval (Student t)"
  return (f"Means over {over}{interval}; accuracies in %. RankMe counts directions that the features use and "
          "is bounded by their width.")


def markdown(rows: Sequence[Row], *, notes: Mapping[str, str] = {}, **options: Any) -> str:
  """The table, its legend and what failed, as Markdown. notes: by name of the run. options: of `cells`."""
  titles, lines = cells(rows, **options)
  plain = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
  out = ["| method | " + " | ".join(map(plain, titles[1:])) + " |",
         "| --- " * 2 + "| ---: " * (len(titles) - 2) + "|"]
  out += ["| " + " | ".join(map(plain, (label, *texts))) + " |" for _, label, texts in lines]
  out += ["", legend(rows)]
  labels = {r["name"]: r["label"] for r in rows}
  out += [f"{labels[name]}: {plain(note)}" for name, note in notes.items() if note and name in labels]
  out += [f"Failed: {failure}" for failure in failures(rows)]
  return "\n\n".join(["\n".join(out[:len(lines) + 2]), *out[len(lines) + 3:]]) + "\n"


def failures(rows: Sequence[Row]) -> list[str]:
  """One line for every run and what it failed of: the seeds, and the first line of the message."""
  found: dict[tuple[str, str], list[str]] = {}
  for name, message in dict.fromkeys((r["name"], f) for r in rows for f in r["failed"]):
    seed, _, why = message.splitlines()[0].partition(": ")
    found.setdefault((name, why), []).append(seed.removeprefix("seed "))
  return [f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {why}"
          for (name, why), seeds in found.items()]


# Figures


def panel_dots(rows: Sequence[Row], metric: str, *, path: str | os.PathLike, chance: float = 0.0) -> str:
  """One metric of all runs: a dot and the interval of each, sorted within its group; floors as vertical
  lines."""
  scale = 100 if metric in PERCENT else 1
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
  with rc_context(report.STYLE):
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
        ax.errorbar(scale * r["mean"], at, xerr=None if r["ci95"] is None else scale * r["ci95"], fmt="o",
                    ms=5.5, color=colour, capsize=2.5, lw=1.5, zorder=3)
    low = min(r["mean"] for r in numbers)
    floors = [r for r in rows if r["group"] == FLOOR and r["metric"] == metric]
    # Intervals of few seeds can be wider than everything else: the dots and floors set the scale.
    seen = [scale * r["mean"] for r in (*numbers, *floors)]
    ax.set_xlim(*_limits([*seen, *([100 * chance] if 0 < chance and low < 2 * chance else [])], scale))
    for i, r in enumerate(floors):
      ax.axvline(scale * r["mean"], color=report.COLOURS[r["name"]], ls=DASHES[i % len(DASHES)], lw=1.3,
                 zorder=1, label=f"{r['label']}{_at(r)}  {text(r, metric)}")
    if 0 < chance and low < 2 * chance and metric in PERCENT:
      ax.axvline(100 * chance, color=INK, lw=0.8, zorder=1, label=f"chance  {100 * chance:.1f}")
    ax.set(ylim=(y - 0.1, -0.75), yticks=[], xlabel=_title(metric))
    ax.grid(False, axis="y")
    if ax.get_legend_handles_labels()[0]:
      figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=2.2)
    return report._save(figure, path)


def panel_scatter(rows: Sequence[Row], metric: str, against: str, *, path: str | os.PathLike) -> str:
  """A dot for each run: one metric against another, named where there is room."""
  groups = list(dict.fromkeys(r["group"] for r in rows if r["group"] != FLOOR))
  by = {(r["name"], r["metric"]): r for r in rows if r["group"] != FLOOR}
  points = [(r, by[name, against]) for (name, m), r in by.items() if m == metric and (name, against) in by]
  if len(points) < 2:
    raise ValueError(f"fewer than two runs have both {metric!r} and {against!r}: there is nothing to draw")
  scale = [100 if m in PERCENT else 1 for m in (metric, against)]
  x = np.array([scale[1] * p["mean"] for _, p in points])
  y = np.array([scale[0] * r["mean"] for r, _ in points])
  with rc_context(report.STYLE):
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
    ax.set(xlabel=_title(against), ylabel=_title(metric))
    if any(groups):
      figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, handletextpad=0.2)
    FigureCanvasAgg(figure).draw()        # sizes of letters are known only now
    _name_points(ax, x, y, [r["label"] for r, _ in points])
    return report._save(figure, path)


def panel_training(results: Sequence[Result], *, path: str | os.PathLike, chance: float = 0.0,
                   metrics: Sequence[str] = ("knn", "rankme", "std_relative")) -> str:
  """One plot a metric against steps, a line a run: the mean over its seeds, and their range. A run that is
  called NAME-none is dashed in the colour of NAME."""
  names = list(dict.fromkeys(r.name for r in results if r.history))
  curve = lambda name, metric: _curve([r for r in results if r.name == name], metric)
  curves = {m: {n: found for n in names if (found := curve(n, m))} for m in metrics}
  metrics = [m for m in metrics if curves[m]]
  if not metrics:
    raise ValueError("no evaluation while training in metrics.jsonl: set config.eval.online and "
                     "config.eval.every")
  labels = {r.name: r.label for r in results}
  bases = list(dict.fromkeys(n.removesuffix("-none") for n in names if n != "none"))
  shown = [labels[n] for n in names if any(n in curves[m] for m in metrics)]
  letters = max(map(len, shown)) + 6              # of an entry of the legend, its line included
  ncols = -(-len(shown) // 12)
  spare = len(metrics) == 3 and ncols * letters <= 56     # the fourth cell of two by two holds the legend
  columns = 2 if spare or len(metrics) == 4 else len(metrics)
  lines = -(-len(metrics) // columns)
  ncols = ncols if spare else max(1, min(4, 110 // letters))
  with rc_context(report.STYLE):
    figure = Figure(figsize=(7.8, 3.0 * lines + (0 if spare else 0.2 * -(-len(shown) // ncols) + 0.2)),
                    layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, metric in zip(grid, metrics):
      scale, values = 100 if metric in PERCENT else 1, []
      for name, (step, low, mean, high) in curves[metric].items():
        bare = name == "none" or name.endswith("-none")
        colour = INK if name == "none" else COLOURS[bases.index(name.removesuffix("-none")) % len(COLOURS)]
        ax.plot(step, scale * mean, color=colour, ls=(0, (3, 1.6)) if bare else "-", lw=1.6,
                label=labels[name], zorder=3)
        ax.fill_between(step, scale * low, scale * high, color=colour, alpha=0.13, lw=0, zorder=2)
        values.append(scale * low)
      values = np.concatenate(values)
      top = ax.get_ylim()[1]
      # What collapses does so by orders of magnitude.
      if metric not in PERCENT and values.max() > 30 * values.min():
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(values.min(), 1e-6 * values.max()) / 1.4)
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
      elif metric not in PERCENT:
        ax.set_ylim(0, top)
      if metric in PERCENT and chance > 0:
        ax.axhline(100 * chance, color=FAINT, lw=1.1, ls=":", zorder=1)
        ax.annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"), xytext=(-2, -2),
                    textcoords="offset points", ha="right", va="top", fontsize=8, color=FAINT)
        ax.set_ylim(bottom=0)
      ax.set(title=_title(metric), xlabel="step")
      ax.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    handles = {label: h for ax in grid for h, label in zip(*ax.get_legend_handles_labels())}
    for ax in grid[len(metrics):]:
      ax.axis("off")
    place = dict(handles=list(handles.values()), labels=list(handles), handlelength=2.4, ncols=ncols)
    if spare:
      grid[-1].legend(**place, loc="center left", borderaxespad=0)
    else:
      figure.legend(**place, loc="outside lower center")
    return report._save(figure, path)


def panel_lines(rows: Sequence[Row], metric: str, *, path: str | os.PathLike, x: str = "",
                chance: float = 0.0) -> str:
  """One metric against the x coordinate, a line a label with its interval as a band; floors grey."""
  scale = 100 if metric in PERCENT else 1
  series: dict[tuple[bool, str], list] = {}
  for r in rows:
    if r["metric"] == metric and r["mean"] is not None:
      series.setdefault((r["group"] == FLOOR, r["label"]), []).append(r)
  at = sorted({r["x"] for (floor, _), own in series.items() if not floor for r in own if r["x"] is not None})
  if not at:
    raise ValueError(f"no run has both an x and the metric {metric!r}: there is nothing to draw")
  labels = [label for floor, label in series if not floor]
  with rc_context(report.STYLE):
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    tags, floors = [], 0
    for (floor, label), own in series.items():
      own = sorted(own, key=lambda r: -np.inf if r["x"] is None else r["x"])
      if own[0]["x"] is None:             # the same at every x
        own = [own[0] | {"x": v} for v in at]
      where = np.array([r["x"] for r in own])
      mean = scale * np.array([r["mean"] for r in own])
      half = scale * np.array([r["ci95"] or 0.0 for r in own])
      if floor:
        ax.plot(where, mean, color=report.COLOURS[suite.PIXELS], ls=DASHES[floors % len(DASHES)], lw=1.4,
                zorder=2)
        floors += 1
        colour = FAINT
      else:
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        ax.plot(where, mean, color=colour, marker="o", ms=4.5, zorder=4)
        ax.fill_between(where, mean - half, mean + half, color=colour, alpha=0.16, lw=0, zorder=3)
      tags.append((mean[-1], label, colour))
    if chance > 0 and metric in PERCENT:
      ax.axhline(100 * chance, color=INK, lw=0.8, zorder=1)
      tags.append((100 * chance, "chance", INK))
    means = [scale * r["mean"] for own in series.values() for r in own]
    ax.set_ylim(*_limits([*means, *([100 * chance] if chance and metric in PERCENT else [])], scale))
    ax.set(xlabel=x, ylabel=_title(metric), xticks=at if len(at) <= 12 else ax.get_xticks())
    report._tags(ax, tags)
    return report._save(figure, path)


def figures(rows: Sequence[Row], results: Sequence[Result], folder: Path, *, figure: str, metric: str,
            x: str = "", chance: float = 0.0) -> dict[str, tuple[str, str]]:
  """Draws what there are numbers for: path -> (title, caption), the main metric first."""
  found = {r["metric"] for r in rows if r["group"] != FLOOR and r["mean"] is not None}
  metrics = [m for m in dict.fromkeys((metric, *PERCENT)) if m in found]
  interval = "the 95 % confidence interval of the mean over seeds"
  made = {}

  def draw(panel, title: str, caption: str, *args, path: str, **options) -> None:
    try:
      made[panel(*args, path=folder / path, **options)] = title, caption
    except ValueError as error:
      logging.info("no figure %s: %s", path, error)

  if figure == "curves":
    draw(panel_training, "While training",
         "Evaluations of the frozen encoder while it trains: lines are means over seeds, bands their range. "
         "Step 0 is the untrained encoder. A relative standard deviation near 0 is collapse to a point, a "
         "RankMe near 1 to a line; dashed: without what prevents it.", results, path="training.png",
         chance=chance)
  for m in metrics:
    if figure == "lines":
      draw(panel_lines, _title(m), f"Bands: {interval}. Grey: floors on the same data.", rows, m,
           path=f"{m}.png", x=x, chance=chance)
    else:
      draw(panel_dots, _title(m), f"Whiskers: {interval}. Vertical lines: floors.", rows, m, path=f"{m}.png",
           chance=chance)
  if figure == "bars":
    draw(panel_scatter, "Accuracy and speed", "Throughput of the train step where the study was made, input "
         "included.", rows, metric, "images_per_s", path="speed.png")
  return made


def _curve(results: Sequence[Result], metric: str) -> tuple[np.ndarray, ...] | None:
  """(steps, low, mean, high) over seeds, at the steps that all of them have; from the untrained encoder at 0
  to the result at the end, where these were measured on the same examples."""
  seeds = []
  for r in results:
    points = dict(report._series(r.history, f"eval/{metric}"))
    if not points:
      continue
    start = [f for f in r.floors if f["row"] == suite.UNTRAINED and f["metric"] == metric]
    end = [f for f in r.rows if f["row"] == suite.TRAINED and f["metric"] == metric]
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


def _at(row: Row) -> str:
  return "" if row["x"] is None else f" at {row['x']:g}"


def _title(metric: str) -> str:
  names = {"linear": "linear probe", "lowshot": "linear probe, few labels", "knn": "kNN",
           "segment": "segmentation, patch mIoU", "finetune": "fine-tuned", "rankme": "RankMe",
           "std_relative": "relative feature std", "std": "mean std of a feature",
           "images_per_s": "images/s"}
  name = names.get(metric, metric)
  return f"{name}{' in %' if metric == 'segment' else ', accuracy in %'}" if metric in PERCENT else name


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


# The page


def write(workdir: Path, results: Sequence[Result], *, study: Mapping[str, Any], runs: Mapping[str, Mapping],
          command: str = "", config: Mapping[str, Any] | str = "") -> Path:
  """results.json, table.md, figures/*.png and report.html in the workdir; returns the page's path.

  Args:
    study: the fields of jepa.study.Study. runs: those of jepa.study.Run, by name.
    command, config: the facts that make the study repeatable.
  """
  rows = summarise(results)
  workdir.mkdir(parents=True, exist_ok=True)
  _write(workdir / "results.json", json.dumps(rows, indent=1) + "\n")
  done = [r for r in results if r.rows]
  latest = suite.latest([row for r in done[-1:] for row in r.rows])
  options = dict(x=study["x"] or "x" if study["figure"] == "lines" else "",
                 spread=study["figure"] == "curves", labels=report._labels(latest).split()[0])
  notes = {name: r.get("note", "") for name, r in runs.items()}
  table = markdown(rows, notes=notes, **options)
  waiting = [name for name in runs if not any(row["name"] == name for row in rows)]
  if waiting:
    table += f"\nNot run yet: {', '.join(waiting)}.\n"
  _write(workdir / "table.md", table)

  panels = figures(rows, results, workdir / "figures", figure=study["figure"], metric=study["metric"],
                   x=study["x"], chance=study["chance"])
  escape = lambda value: html.escape(str(value))
  distinct = lambda values: "; ".join(dict.fromkeys(v for v in values if v))
  facts = {"Command": command, "Git revision": distinct(r.facts.get("git") for r in results),
           "Hardware": distinct(f"{r.facts['devices']} x {r.facts['device']}, jax {r.facts['jax']}, "
                                f"Python {r.facts['python']}" for r in results if r.facts),
           "Time": f"{sum(r.record.get('seconds') or 0 for r in results) / 3600:.2f} h, evaluations included"}
  if study["flops"] > 0:
    facts["Compute"] = (f"{study['flops']:.3g} FLOPs a run: matrix products and convolutions of the whole "
                        "train step")
  if not isinstance(config, str):
    config = json.dumps(config, indent=1, default=str)
  facts = "".join(f"<dt>{k}</dt><dd><code>{escape(v)}</code></dd>" for k, v in facts.items() if v)
  page = report.PAGE.format(
      title=escape(study["title"]), style=report.CSS,
      notes=f'<p class="notes">{escape(study["question"])}</p>',
      table=_table(rows, notes, waiting, options),
      panels="\n".join(_section(p, *texts) for p, texts in panels.items()), facts=f"<dl>{facts}</dl>",
      config=f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>" if config
      else "", protocols=report._protocols(done[-1].rows) if done else "")
  _write(workdir / "report.html", page)
  return workdir / "report.html"


def _table(rows: Sequence[Row], notes: Mapping[str, str], waiting: Sequence[str],
           options: Mapping[str, Any]) -> str:
  escape = html.escape
  titles, lines = cells(rows, **options)
  head = "".join(f'<th{left}>{escape(t)}</th>' for t, left in
                 zip(titles, ["", ' style="text-align:left"', *[""] * len(titles)]))
  body = []
  for name, label, (group, *texts) in lines:
    cell = "".join(f"<td>{escape(t)}</td>" for t in texts)
    note = f"<br><small>{escape(notes[name])}</small>" if notes.get(name) else ""
    body.append(f'<tr><th scope="row">{escape(label)}{note}</th>'
                f'<td style="text-align:left">{escape(group)}</td>{cell}</tr>')
  more = [legend(rows), *(f"Failed: {f}" for f in failures(rows)),
          *([f"Not run yet: {', '.join(waiting)}."] if waiting else [])]
  return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
          f'<tbody>{"".join(body)}</tbody></table></div>'
          + "".join(f'<p class="small">{escape(m)}</p>' for m in more))


def _section(path: str, title: str, caption: str) -> str:
  """A figure of the page, embedded, at the scale of report.write."""
  png = Path(path).read_bytes()
  width = round(int.from_bytes(png[16:20], "big") / 1.5)
  return (f'<section><h2>{html.escape(title)}</h2><figure><img alt="{html.escape(title)}" width="{width}" '
          f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
          f"<figcaption>{html.escape(caption)}</figcaption></figure></section>")


def _write(path: Path, content: str) -> None:
  """Atomically: a killed process leaves the old file or the new one."""
  temporary = path.with_name(f"{path.name}.tmp")
  temporary.write_text(content, encoding="utf-8")
  temporary.replace(path)
