"""Panels of a run's page: what its method does to images, and what its features are.

A function draws one figure, saves it as a PNG at `path` and returns that path. What images may be: see `rgb`.

Shape letters: B images, H W C image, V views, N tokens, D width, M target blocks, K tokens kept, k
neighbours.
"""
from collections.abc import Mapping, Sequence
import os

from absl import logging
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.evals import collapse, features as F, knn, results
from jepa.reports import style
from jepa.reports.style import BLOCKS, COLOURS, FAINT, INK, RIGHT, WRONG
from jepa.types import Tokens


def views(images: np.ndarray, views: np.ndarray | Sequence[np.ndarray], *, path: str | os.PathLike,
          most: int = 8) -> str:
  """Images in a row, their views below. views: [V B h w C], or a sequence of such groups (global ones, local
  ones).
  """
  groups = [np.asarray(views)] if hasattr(views, "ndim") else [np.asarray(g) for g in views]
  size = min(most, len(images))
  rows = [rgb(images[:size])] + [rgb(view[:size]) for group in groups for view in group]
  names = ["image"] + [f"view {i + 1}" for i in range(len(rows) - 1)]
  with rc_context(style.STYLE):
    figure, ax = _sheet(rows, names)
    return style.save(figure, path)


def masks(images: np.ndarray, context: Tokens, targets: Tokens, grid: tuple[int, int], *,
          path: str | os.PathLike, most: int = 8) -> str:
  """Images in a row; below, patches outside the context dimmed and each target block outlined.

  Args:
    images: [B H W C]. context: Tokens [B K]. targets: Tokens [B M K]. grid: (rows, columns) of tokens.
  """
  size = min(most, len(images))
  images = rgb(images[:size])
  tokens = lambda t, i: np.asarray(t.index)[i][np.asarray(t.valid)[i]]
  kept = np.zeros((size, grid[0] * grid[1]), bool)
  for i in range(size):
    kept[i, tokens(context, i)] = True
  seen = _stretch(kept.reshape(size, *grid, 1), images.shape[1:3])
  backdrop = 0.16 * images + 0.80
  with rc_context(style.STYLE):
    figure, ax = _sheet([images, np.where(seen, images, backdrop)], ["image", "context\nand targets"])
    for i in range(size):
      for block in range(np.asarray(targets.index).shape[1]):
        chosen = np.zeros(grid, bool)
        chosen.flat[np.asarray(targets.index)[i, block][np.asarray(targets.valid)[i, block]]] = True
        # Each block a little further inside its cells, so that overlapping blocks stay apart.
        _outline(ax, chosen, at=(i, 1), colour=BLOCKS[block % len(BLOCKS)], inset=0.006 + 0.011 * block)
    return style.save(figure, path)


def pca(images: np.ndarray, tokens: np.ndarray | Mapping[str, np.ndarray], grid: tuple[int, int], *,
        path: str | os.PathLike, most: int = 8) -> str:
  """Images in a row; below, three principal components of their tokens as colours, one row for each encoder.

  Args:
    images: [B H W C]. tokens: [B N D] row-major over `grid`, or a dict of them by name of the encoder.
  """
  by = tokens if isinstance(tokens, Mapping) else {"features": tokens}
  size = min(most, len(images))
  images = rgb(images[:size])
  colours = [_principal(np.asarray(t[:size], np.float64)).reshape(size, *grid, 3) for t in by.values()]
  maps = [_stretch(c, images.shape[1:3]) for c in colours]
  with rc_context(style.STYLE):
    figure, _ = _sheet([images, *maps], ["image", *(name.replace(" ", "\n", 1) for name in by)])
    return style.save(figure, path)


def spectrum(features: Mapping[str, np.ndarray], *, path: str | os.PathLike, most: int = 10_000) -> str:
  """Singular values of centred features [N D] by name, over the largest, on logarithmic axes; the first
  `most` examples.
  """
  with rc_context(style.STYLE):
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
              zorder=2 + (name == results.TRAINED), ls="-" if name != results.PIXELS else ":",
              label=f"{name} (D = {x.shape[1]}, effective rank {rank:.3g})")
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="singular value / largest",
           ylim=(lowest / 2, 1.5))
    if ax.lines:
      ax.legend(loc="lower left")
    return style.save(figure, path)


def neighbours(images: np.ndarray, queries: np.ndarray, features_by_row: Mapping[str, F.FeatureSet], *,
               path: str | os.PathLike, k: int = 5, most: int = 8, at: Sequence[int] | None = None) -> str:
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
  columns, frames, starts = [rgb(queries[at])], [None], []
  for f in features_by_row.values():
    nearest = knn.neighbours(f.train_x, f.test_x[at], k=min(k, len(f.train_x)))
    starts.append(len(columns))
    for j in range(nearest.shape[1]):
      columns.append(rgb(images[nearest[:, j]]))
      known = (label >= 0) & (np.asarray(f.train_y)[nearest[:, j]] >= 0)
      frames.append(np.where(known, np.asarray(f.train_y)[nearest[:, j]] == label, -1))
  # Positions in units of an image, with a gap before each representation.
  gap, cell = 0.45, 1.08
  x = np.array([c * cell + gap * sum(c >= s for s in starts) for c in range(len(columns))])
  width, height = x[-1] + 1, len(at) * cell
  with rc_context(style.STYLE):
    inch = min(0.62, 11.5 / width)
    page = width * inch + 0.2, height * inch + 0.45
    figure = Figure(figsize=page)
    ax = figure.add_axes([0.1 / page[0], 0.05 / page[1], width * inch / page[0], height * inch / page[1]])
    for c, column in enumerate(columns):
      for r, image in enumerate(column):
        hit = frames[c][r] if frames[c] is not None else -1
        frame = {} if hit < 0 else dict(lw=1.8, ec=RIGHT if hit else WRONG)
        _place(ax, image, x[c], r * cell, **frame)
    ax.text(0.5, -0.18, "query", ha="center", va="bottom", weight="bold")
    for name, s in zip(features_by_row, starts):
      ax.text(x[s], -0.18, name, va="bottom", weight="bold", color=COLOURS.get(name, INK))
    ax.set(xlim=(-0.05, width + 0.05), ylim=(height, -0.05))
    ax.axis("off")
    return style.save(figure, path)


# Drawing


def rgb(images: np.ndarray) -> np.ndarray:
  """What images look like: f32 [B H W 3] in [0, 1], of uint8 or of floats in [0, 1], [B H W C] with one or
  three channels."""
  images = np.asarray(images)
  x = (images.astype(np.float32) / 255 if images.dtype == np.uint8
       else np.clip(images.astype(np.float32), 0, 1))
  return np.repeat(x, 3, -1) if x.shape[-1] == 1 else x


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
      _place(ax, image, i * cell, r * cell)
  ax.set(xlim=(-left, columns * cell), ylim=(len(rows) * cell, -edge))
  ax.set_aspect("equal")
  ax.axis("off")
  return figure, ax


def _place(ax: Axes, image: np.ndarray, x: float, y: float, *, lw: float = 0.6, ec: str = "#c9ced6") -> None:
  """An image [h w 3] as a unit square in a frame. Pixels of small ones stay squares; large ones are shrunk
  without aliasing."""
  smooth = "nearest" if max(image.shape[:2]) <= 96 else "antialiased"
  ax.imshow(image, extent=(x, x + 1, y + 1, y), interpolation=smooth)
  ax.add_patch(Rectangle((x, y), 1, 1, fill=False, lw=lw, ec=ec))


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
