"""report.html: one self-contained page that shows what a run learned, and the figures in it.

A panel function draws one figure, saves it as a PNG at `path` and returns that path; `write` embeds the PNGs,
the results table and the facts of the run in a page that refers to nothing outside itself. Images are uint8,
or floats in [0, 1], [B H W C] with C 1 or 3. Every panel may be missing.

Shape letters: B images, H W C image, V views, N tokens, D width, M target blocks, K tokens kept, k
neighbours.
"""
import base64
from collections.abc import Mapping, Sequence
import html
import json
import math
import os
from pathlib import Path
from typing import Any

from absl import logging
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.evals import collapse, features as F, knn, suite
from jepa.types import Tokens

# Distinguishable with any colour vision (after Okabe and Ito).
COLOURS = {suite.PIXELS: "#7a7f87", suite.UNTRAINED: "#d98200", suite.TRAINED: "#0b66b2"}
BLOCKS = ("#e6550d", "#0b9e73", "#c65ba0", "#0b66b2", "#d9a400", "#6a51a3")
RIGHT, WRONG = "#0b9e73", "#d7301f"
INK, FAINT = "#1d2430", "#6b7280"

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": "#b8bec8",
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e7eaef", "grid.linewidth": 0.8,
    "axes.axisbelow": True, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.8, "figure.facecolor": "white",
    "axes.unicode_minus": True,
}

# Title and caption of the panels that are known, in the order of the page.
PANELS = {
    "curves": ("Loss and probes while training",
        "Left: the training loss, thin, and its running median. Middle: probes of the frozen encoder; "
        "dashed lines of the same colour are the floors, dotted raw pixels and dashed the untrained "
        "encoder. Learning shows as a curve that leaves its floors behind; a loss that falls under a flat "
        "probe is collapse, or a task that is too easy. Right: RankMe, the number of directions the "
        "features use, and their spread."),
    "views": ("Views",
        "Each column is one image; under it are the views that the loss compares. What differs between "
        "views is what the encoder is asked to forget."),
    "masks": ("Masks",
        "Above: images. Below: what the context encoder sees; dimmed patches are hidden from it. Each "
        "coloured outline is a target block whose representation is predicted."),
    "pca": ("Feature maps",
        "The first three principal components of all tokens, fitted jointly over these images, as red, "
        "green and blue. The same colour means a similar representation: parts of objects should share "
        "colours across images, and a map that follows position alone has learned no content."),
    "spectrum": ("Spectrum of the features",
        "Singular values of the centred features over the largest one, on logarithmic axes. A curve that "
        "falls off a cliff has collapsed onto the directions before it."),
    "neighbours": ("Nearest neighbours",
        "A test image, then the training images nearest to it (cosine), nearest first, by pixels and by "
        "encoder. Frames: green where the label is the same, red where it is not."),
}


# Panels


def panel_curves(history: Sequence[Mapping[str, Any]], rows: Sequence[F.Row] = (), *,
                 path: str | os.PathLike) -> str:
  """Loss, probes with floors, and collapse statistics over steps.

  Args:
    history: records of metrics.jsonl: "step", "loss", and "eval/<metric>" where there was an evaluation.
    rows: results; those of the trained encoder add points at their step, the others are floors.
  """
  accuracy = [m for m, *_, kind in suite.COLUMNS if kind == "percent"]
  loss = _series(history, "loss")
  by = suite.latest(rows)
  curves = {m: _points(history, rows, m) for m in (*accuracy, "rankme", "std")}
  probes = [m for m in accuracy if curves[m]]
  statistics = [m for m in ("rankme", "std") if curves[m]]
  shown = bool(loss) + bool(probes) + bool(statistics)
  if not shown:
    raise ValueError("no loss, probe or statistic in the history and rows: there is no curve to draw")

  with rc_context(STYLE):
    figure = Figure(figsize=(4.1 * shown, 3.3), layout="constrained")
    axes = iter(np.atleast_1d(figure.subplots(1, shown)))
    if loss:
      ax = next(axes)
      x, y = np.asarray(loss).T
      smooth = _median(y)
      ax.plot(x, y, color=COLOURS[suite.TRAINED], alpha=0.3, lw=0.9)
      ax.plot(x, smooth, color=COLOURS[suite.TRAINED])
      ax.set(title="Training loss", xlabel="step")
      if y.min() > 0 and y.max() > 20 * y.min():
        ax.set_yscale("log")
      elif len(y) > 20:
        # The first steps of a run are often tens of times the rest, which would flatten all of it.
        low, high = y.min(), np.quantile(y, 0.985)
        if y.max() - low > 3 * (high - low) > 0:
          ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
      ax.annotate(f"{smooth[-1]:.4g}", (x[-1], smooth[-1]), xytext=(0, 7), textcoords="offset points",
                  ha="right", fontsize=8.5)
    if probes:
      ax = next(axes)
      names = {"linear": "linear, all labels", "lowshot": f"linear, {_labels(by)} a class", "knn": "kNN",
               "finetune": "fine-tuned", "segment": "segmentation"}
      tags = []
      for metric, colour in zip(probes, (COLOURS[suite.TRAINED], "#0b9e73", "#c65ba0", "#8c6d1f", "#5b4ccc")):
        x, y = np.asarray(curves[metric]).T
        ax.plot(x, 100 * y, color=colour, marker="o", ms=3.5, label=names[metric], zorder=3)
        tags.append((100 * y[-1], f"{100 * y[-1]:.1f}", colour))
        for row, dash in ((suite.PIXELS, ":"), (suite.UNTRAINED, "--")):
          if (row, metric) in by:
            ax.axhline(100 * by[row, metric]["mean"], color=colour, ls=dash, lw=1.1, alpha=0.75, zorder=2)
      for row, dash in ((suite.PIXELS, ":"), (suite.UNTRAINED, "--")):
        if any((row, m) in by for m in probes):
          ax.plot([], [], color=FAINT, ls=dash, lw=1.2, label=row)
      ax.set(title="Probes, accuracy in %", xlabel="step")
      ax.set_ylim(top=min(ax.get_ylim()[1], 100.5))
      _tags(ax, tags)
      ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, columnspacing=1.2, handlelength=1.8)
    if statistics:
      ax = next(axes)
      titles = {"rankme": "RankMe", "std": "mean feature std"}
      both = (ax, ax.twinx() if len(statistics) > 1 else ax)
      for metric, axis, colour in zip(statistics, both, (COLOURS[suite.TRAINED], "#d98200")):
        x, y = np.asarray(curves[metric]).T
        axis.plot(x, y, color=colour, marker="o", ms=3.5)
        axis.set_ylim(0, 1.12 * max(y.max(), 1e-9))
        axis.set_ylabel(titles[metric], color=colour)
        axis.tick_params(axis="y", colors=colour)
        if axis is not ax:
          axis.grid(False)
          axis.spines["right"].set_visible(True)
      ax.set(title="Collapse watch", xlabel="step")
    return _save(figure, path)


def panel_views(images: np.ndarray, views: np.ndarray | Sequence[np.ndarray], *, path: str | os.PathLike,
                most: int = 8) -> str:
  """Images in a row, their views below. views: [V B h w C], or a sequence of such groups (global ones, local
  ones).
  """
  groups = [np.asarray(views)] if hasattr(views, "ndim") else [np.asarray(g) for g in views]
  size = min(most, len(images))
  rows = [_rgb(images[:size])] + [_rgb(view[:size]) for group in groups for view in group]
  names = ["image"] + [f"view {i + 1}" for i in range(len(rows) - 1)]
  with rc_context(STYLE):
    figure, ax = _sheet(rows, names)
    return _save(figure, path)


def panel_masks(images: np.ndarray, context: Tokens, targets: Tokens, grid: tuple[int, int], *,
                path: str | os.PathLike, most: int = 8) -> str:
  """Images in a row; below, patches outside the context dimmed and each target block outlined.

  Args:
    images: [B H W C]. context: Tokens [B K]. targets: Tokens [B M K]. grid: (rows, columns) of tokens.
  """
  size = min(most, len(images))
  images = _rgb(images[:size])
  tokens = lambda t, i: np.asarray(t.index)[i][np.asarray(t.valid)[i]]
  kept = np.zeros((size, grid[0] * grid[1]), bool)
  for i in range(size):
    kept[i, tokens(context, i)] = True
  seen = _stretch(kept.reshape(size, *grid, 1), images.shape[1:3])
  backdrop = 0.16 * images + 0.80
  with rc_context(STYLE):
    figure, ax = _sheet([images, np.where(seen, images, backdrop)], ["image", "context\nand targets"])
    for i in range(size):
      for block in range(np.asarray(targets.index).shape[1]):
        chosen = np.zeros(grid, bool)
        chosen.flat[np.asarray(targets.index)[i, block][np.asarray(targets.valid)[i, block]]] = True
        # Each block a little further inside its cells, so that overlapping blocks stay apart.
        _outline(ax, chosen, at=(i, 1), colour=BLOCKS[block % len(BLOCKS)], inset=0.006 + 0.011 * block)
    return _save(figure, path)


def panel_pca(images: np.ndarray, tokens: np.ndarray | Mapping[str, np.ndarray], grid: tuple[int, int], *,
              path: str | os.PathLike, most: int = 8) -> str:
  """Images in a row; below, three principal components of their tokens as colours, one row for each encoder.

  Args:
    images: [B H W C]. tokens: [B N D] row-major over `grid`, or a dict of them by name of the encoder.
  """
  by = tokens if isinstance(tokens, Mapping) else {"features": tokens}
  size = min(most, len(images))
  images = _rgb(images[:size])
  colours = [_principal(np.asarray(t[:size], np.float64)).reshape(size, *grid, 3) for t in by.values()]
  maps = [_stretch(c, images.shape[1:3]) for c in colours]
  with rc_context(STYLE):
    figure, _ = _sheet([images, *maps], ["image", *(name.replace(" ", "\n", 1) for name in by)])
    return _save(figure, path)


def panel_spectrum(features: Mapping[str, np.ndarray], *, path: str | os.PathLike, most: int = 10_000) -> str:
  """Singular values of centred features [N D] by name, over the largest, on logarithmic axes; the first
  `most` examples.
  """
  with rc_context(STYLE):
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    ax = figure.subplots()
    lowest = 1.0
    for i, (name, x) in enumerate(features.items()):
      x = np.asarray(x[:most], np.float64)
      s = collapse.singular_values(x - x.mean(0))
      s = s[:min(x.shape[1], len(x) - 1)]
      if not s[0] > 0:
        logging.warning("%s: all features are equal, so they have no spectrum", name)
        continue
      s = np.maximum(s / s[0], 1e-8)
      lowest = min(lowest, s[s > 1e-4].min())
      rank = collapse.entropy_rank(s ** 2)
      ax.plot(np.arange(1, len(s) + 1), s, color=COLOURS.get(name, BLOCKS[i % len(BLOCKS)]),
              zorder=2 + (name == suite.TRAINED), ls="-" if name != suite.PIXELS else ":",
              label=f"{name} (D = {x.shape[1]}, effective rank {rank:.3g})")
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="singular value / largest",
           ylim=(lowest / 2, 1.5))
    if ax.lines:
      ax.legend(loc="lower left")
    return _save(figure, path)


def panel_neighbours(images: np.ndarray, queries: np.ndarray, features_by_row: Mapping[str, F.FeatureSet], *,
                     path: str | os.PathLike, k: int = 5, most: int = 8,
                     at: Sequence[int] | None = None) -> str:
  """For some test images, the k nearest training images by each row's features (cosine).

  Args:
    images: training images [N H W C]. queries: test images [M H W C]. features_by_row: FeatureSets over the
        same examples.
    at: positions of the queries; by default one of each class in turn.
  """
  first = next(iter(features_by_row.values()))
  if at is None:
    at = _spread(first.test_y, most)
  at = np.asarray(at)[:most]
  label = np.asarray(first.test_y)[at]
  columns, frames, starts = [_rgb(queries[at])], [None], []
  for f in features_by_row.values():
    nearest = knn.neighbours(f.train_x, f.test_x[at], k=min(k, len(f.train_x)))
    starts.append(len(columns))
    for j in range(nearest.shape[1]):
      columns.append(_rgb(images[nearest[:, j]]))
      known = (label >= 0) & (np.asarray(f.train_y)[nearest[:, j]] >= 0)
      frames.append(np.where(known, np.asarray(f.train_y)[nearest[:, j]] == label, -1))
  # Positions in units of an image, with a gap before each representation.
  gap, cell = 0.45, 1.08
  x = np.array([c * cell + gap * sum(c >= s for s in starts) for c in range(len(columns))])
  width, height = x[-1] + 1, len(at) * cell
  with rc_context(STYLE):
    inch = min(0.62, 11.5 / width)
    page = width * inch + 0.2, height * inch + 0.45
    figure = Figure(figsize=page)
    ax = figure.add_axes([0.1 / page[0], 0.05 / page[1], width * inch / page[0], height * inch / page[1]])
    for c, column in enumerate(columns):
      for r, image in enumerate(column):
        ax.imshow(image, extent=(x[c], x[c] + 1, r * cell + 1, r * cell), interpolation=_interpolation(image))
        hit = frames[c][r] if frames[c] is not None else -1
        ax.add_patch(Rectangle((x[c], r * cell), 1, 1, fill=False, lw=0.6 if hit < 0 else 1.8,
                               ec="#c9ced6" if hit < 0 else RIGHT if hit else WRONG))
    ax.text(0.5, -0.18, "query", ha="center", va="bottom", weight="bold")
    for name, s in zip(features_by_row, starts):
      ax.text(x[s], -0.18, name, va="bottom", weight="bold", color=COLOURS.get(name, INK))
    ax.set(xlim=(-0.05, width + 0.05), ylim=(height, -0.05))
    ax.axis("off")
    return _save(figure, path)


# The page


def write(path: str | os.PathLike, *, title: str, rows: Sequence[F.Row],
          history: Sequence[Mapping[str, Any]] = (), panels: Mapping[str, str | os.PathLike] | None = None,
          command: str = "", config: str | Mapping[str, Any] = "", revision: str = "", hardware: str = "",
          notes: str = "") -> Path:
  """Writes the page and, from `history` and `rows`, its curves (figures/curves.png beside it, unless panels
  has them).

  Args:
    rows: results, as in results.json. history: records of metrics.jsonl.
    panels: PNG files by name; names of PANELS get their titles and captions, other names are their own title.
      A file that does not exist is left out and named in the log.
    command, config, revision, hardware: the facts that make the run repeatable. notes: a paragraph under the
        title.

  Returns:
    the path.
  """
  path, panels = Path(path), dict(panels or {})
  if "curves" not in panels:
    try:
      panels["curves"] = panel_curves(history, rows, path=path.parent / "figures" / "curves.png")
    except ValueError as error:
      logging.info("report without curves: %s", error)
  order = [*(p for p in PANELS if p in panels), *(p for p in panels if p not in PANELS)]
  blocks = []
  for name in order:
    if not Path(panels[name]).is_file():
      logging.warning("report without %r: %s does not exist", name, panels[name])
      continue
    head, caption = PANELS.get(name, (name, ""))
    png = Path(panels[name]).read_bytes()
    width = round(int.from_bytes(png[16:20], "big") / 1.8)  # of the header; one scale, so one size of letters
    blocks.append(f'<section><h2>{_text(head)}</h2><figure><img alt="{_text(head)}" width="{width}" '
                  f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
                  f"<figcaption>{_text(caption)}</figcaption></figure></section>")
  if not isinstance(config, str):
    config = json.dumps(config, indent=2, default=str)
  facts = [("Command", command), ("Git revision", revision), ("Hardware", hardware)]
  facts = "".join(f"<dt>{k}</dt><dd><code>{_text(v)}</code></dd>" for k, v in facts if v)
  page = PAGE.format(
      title=_text(title), style=CSS, notes=f'<p class="notes">{_text(notes)}</p>' if notes else "",
      table=_table(rows), panels="\n".join(blocks), facts=f"<dl>{facts}</dl>" if facts else "",
      config=f"<details><summary>Configuration</summary><pre>{_text(config)}</pre></details>" if config
      else "", protocols=_protocols(rows))
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  temporary.write_text(page, encoding="utf-8")
  temporary.replace(path)
  return path


def _table(rows: Sequence[F.Row]) -> str:
  if not rows:
    return "<p>No evaluation has been made.</p>"
  shown = suite.columns(rows)
  titles, lines = suite.cells(rows, shown)
  head = "".join(f"<th>{_text(a)}<br><small>{_text(b) or '&nbsp;'}</small></th>" for a, b in titles)
  best = {}
  for i, (*_, kind) in enumerate(shown):
    values = [means[i] for _, _, means in lines if means[i] is not None]
    if kind == "percent" and len(values) > 1:       # RankMe and std are diagnoses, not scores
      best[i] = max(values)
  body = []
  for name, texts, means in lines:
    cells = "".join(f"<td>{f'<b>{_text(t)}</b>' if m is not None and best.get(i) == m else _text(t)}</td>"
                    for i, (t, m) in enumerate(zip(texts, means)))
    mark = " class=trained" if name == suite.TRAINED else ""
    body.append(f'<tr{mark}><th scope="row">{_text(name)}</th>{cells}</tr>')
  protocols = [r["protocol"] for r in rows if {"train", "test"} <= set(r["protocol"])]
  data = f" Data: {protocols[0]['train']}; tested on {protocols[0]['test']}." if protocols else ""
  return (f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
          f'<tbody>{"".join(body)}</tbody></table></div>'
          "<p class=\"small\">Accuracies in %, the best of each column in bold; "
          "± is one standard deviation over draws of the labelled subset, or over runs. "
          "RankMe counts directions that the features use and is bounded "
          f"by their width, so it compares rows of equal width only.{_text(data)}</p>")


def _protocols(rows: Sequence[F.Row]) -> str:
  """The protocol of every metric, as it was for the last row that has it."""
  by = {metric: r["protocol"] for (_, metric), r in suite.latest(rows).items()}
  if not by:
    return ""
  dump = lambda protocol: _text(json.dumps(protocol, indent=1, default=str))
  text = "".join(f"<h3>{_text(m)}</h3><pre>{dump(p)}</pre>" for m, p in by.items())
  return f"<details><summary>Evaluation protocols</summary>{text}</details>"


def _text(value: Any) -> str:
  return html.escape(str(value))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{notes}
<section><h2>Results</h2>{table}</section>
{panels}
<section><h2>The run</h2>{facts}{config}{protocols}</section>
</main>
</body>
</html>
"""

CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1d2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial,
  sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4em; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .7em; }
h3 { font-size: .95rem; margin: 1.2em 0 .3em; }
section { background: #fff; border: 1px solid #e3e6eb; border-radius: 10px; padding: 20px 24px; \
margin: 18px 0; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption, .small, .notes { color: #4b5563; font-size: .92rem; }
figcaption { margin-top: 12px; max-width: 78ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 12px; text-align: right; border-bottom: 1px solid #e9ecf1; white-space: nowrap; }
thead th { font-size: .88rem; font-weight: 600; line-height: 1.3; vertical-align: bottom;
  border-bottom: 2px solid #c9ced6; }
thead small { color: #6b7280; font-weight: 400; }
tbody th { text-align: left; font-weight: 500; }
tr.trained { background: #eef5fb; }
tr.trained th { color: #0b66b2; font-weight: 650; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0 0 1em; }
dt { color: #6b7280; } dd { margin: 0; min-width: 0; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
pre { background: #f6f7f9; border-radius: 6px; padding: 12px 14px; overflow-x: auto; white-space: pre-wrap; }
details { margin-top: .6em; } summary { cursor: pointer; font-weight: 600; }
"""


# Drawing


def _sheet(rows: Sequence[np.ndarray], names: Sequence[str]) -> tuple[Figure, Axes]:
  """Rows of images [B h w 3] of any size, each image a unit square; its name to the left. Image (i, r) starts
  at (1.06 i, 1.06 r)."""
  columns, cell, left, edge = max(map(len, rows)), 1.06, 1.05, 0.06
  inch = min(1.15, 11 / (columns * cell + left))
  width, height = columns * cell + left, len(rows) * cell + edge
  figure = Figure(figsize=(width * inch, height * inch))
  ax = figure.add_axes([0, 0, 1, 1])
  for r, (images, name) in enumerate(zip(rows, names)):
    ax.text(-0.12, r * cell + 0.5, name, ha="right", va="center", color=FAINT)
    for i, image in enumerate(images):
      ax.imshow(image, extent=(i * cell, i * cell + 1, r * cell + 1, r * cell),
                interpolation=_interpolation(image))
      ax.add_patch(Rectangle((i * cell, r * cell), 1, 1, fill=False, lw=0.6, ec="#c9ced6"))
  ax.set(xlim=(-left, columns * cell), ylim=(len(rows) * cell, -edge))
  ax.set_aspect("equal")
  ax.axis("off")
  return figure, ax


def _interpolation(image: np.ndarray) -> str:
  """Pixels of small images stay squares; large ones are shrunk without aliasing."""
  return "nearest" if max(image.shape[:2]) <= 96 else "antialiased"


def _outline(ax: Axes, chosen: np.ndarray, *, at: tuple[int, int], colour: str, inset: float) -> None:
  """The boundary and a light fill of a set of cells of a grid, bool [rows columns], over image `at` of a
  sheet.
  """
  rows, columns = chosen.shape
  h, w, x0, y0 = 1 / rows, 1 / columns, 1.06 * at[0], 1.06 * at[1]
  inside = np.pad(chosen, 1)
  lines = []
  for r, c in np.argwhere(chosen):
    up, down = not inside[r, c + 1], not inside[r + 2, c + 1]
    before, after = not inside[r + 1, c], not inside[r + 1, c + 2]
    l, t = x0 + c * w + inset * before, y0 + r * h + inset * up
    e, b = x0 + (c + 1) * w - inset * after, y0 + (r + 1) * h - inset * down
    lines += [s for s, on in (([(l, t), (e, t)], up), ([(l, b), (e, b)], down), ([(l, t), (l, b)], before),
                              ([(e, t), (e, b)], after)) if on]
    ax.add_patch(Rectangle((x0 + c * w, y0 + r * h), w, h, fc=colour, ec="none", alpha=0.13))
  ax.add_collection(LineCollection(lines, colors=colour, linewidths=1.7, capstyle="projecting"))


def _rgb(images: np.ndarray) -> np.ndarray:
  """f32 [B H W 3] in [0, 1] of uint8 or float images with one or three channels."""
  images = np.asarray(images)
  x = (images.astype(np.float32) / 255 if images.dtype == np.uint8
       else np.clip(images.astype(np.float32), 0, 1))
  return np.repeat(x, 3, -1) if x.shape[-1] == 1 else x


def _stretch(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[B h w C] to [B H W C] by repeating cells, also where H is no multiple of h."""
  rows, columns = (np.arange(s) * n // s for s, n in zip(size, maps.shape[1:3]))
  return maps[:, rows][:, :, columns]


def _principal(tokens: np.ndarray) -> np.ndarray:
  """[B N D] -> the first three principal components over all tokens [B N 3], each between its 2nd and 98th
  percentile.
  """
  flat = tokens.reshape(-1, tokens.shape[-1])
  flat = flat - flat.mean(0)
  with threadpool_limits(1, user_api="blas"):       # see collapse.py
    _, vectors = np.linalg.eigh(flat.T @ flat)
  axes = vectors[:, ::-1][:, :3]
  # An eigenvector's sign is arbitrary: its largest entry is made positive.
  axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
  y = np.pad(flat @ axes, ((0, 0), (0, 3 - axes.shape[1])))
  low, high = np.percentile(y, [2, 98], axis=0)
  y = (y - low) / np.maximum(high - low, 1e-12)
  return np.clip(y, 0, 1).reshape(*tokens.shape[:2], 3)


def _spread(labels: np.ndarray, most: int) -> list[int]:
  """Positions of examples, one of each class in turn."""
  labels = np.asarray(labels)
  members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
  turns = [m[i] for i in range(max(map(len, members))) for m in members if i < len(m)]
  return turns[:most]


def _number(value: Any) -> float | None:
  """A finite float, or None; the log writes non-finite values as strings."""
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    return None
  return float(value)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
  found = {r["step"]: _number(r[key]) for r in history if key in r and "step" in r}
  return sorted((s, v) for s, v in found.items() if v is not None)


def _points(history: Sequence[Mapping[str, Any]], rows: Sequence[F.Row],
            metric: str) -> list[tuple[float, float]]:
  """(step, value) of the trained encoder: logged while training, then results with a step; from the
  untrained one at 0.
  """
  points = dict(_series(history, f"eval/{metric}"))
  for r in rows:
    step = r["protocol"].get("step")
    if r["metric"] == metric and (r["row"] == suite.UNTRAINED
                                  or (r["row"] == suite.TRAINED and step is not None)):
      points[0 if r["row"] == suite.UNTRAINED else step] = r["mean"]
  return sorted(points.items()) if any(s > 0 for s in points) else []


def _labels(by: Mapping[tuple[str, str], F.Row]) -> str:
  settings = [r["protocol"].get("settings", {}) for (_, metric), r in by.items() if metric == "lowshot"]
  return f"{settings[0].get('labels', 10) if settings else 10} labels"


def _median(y: np.ndarray) -> np.ndarray:
  """Running median over about a twentieth of the curve, shorter at its ends."""
  half = max(1, len(y) // 40)
  return np.array([np.median(y[max(0, i - half):i + half + 1]) for i in range(len(y))])


def _tags(ax: Axes, tags: Sequence[tuple[float, str, str]]) -> None:
  """Final values at the right of a plot, kept from covering one another."""
  low, high = ax.get_ylim()
  least, at = (high - low) * 0.06, []
  for value, *_ in sorted(tags):
    at.append(max(value, at[-1] + least) if at else value)
  ceiling = high
  for i in reversed(range(len(at))):
    at[i] = min(at[i], ceiling)
    ceiling = at[i] - least
  for y, (_, text, colour) in zip(at, sorted(tags)):
    ax.annotate(text, (1.015, y), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=8.5,
                weight="bold", annotation_clip=False)


def _save(figure: Figure, path: str | os.PathLike) -> str:
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  FigureCanvasAgg(figure)
  figure.savefig(path, format="png", dpi=144, metadata={"Software": None})
  return os.fspath(path)
