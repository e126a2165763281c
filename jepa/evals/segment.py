"""Segmentation by a linear probe of single tokens: what does a patch's frozen representation say of what is
there?

Every token is one example; of raw pixels, those of its cell. Its label is the commonest class of its cell's
labelled pixels, if those are at least a quarter of the cell, else background; the classifier is that of the
linear probe. The score is the mean, over the classes, background among them, of intersection over union
(PASCAL VOC's mIoU), counted in cells.

Shape letters: N images, H W C image (H = W), G cells a side, T = G*G cells, S pixels a side of a cell,
D width, K classes.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from jepa.evals import classes as C, features as F, logistic, results

VERSION = 1
COLUMNS = (("segment", "segmentation", "(patch mIoU)", "percent"),)
ORDER = 4
LABELS = False
GRID = (1e-2, 1e-3, 1e-4, 1e-5)     # penalties
SHARE = 0.25                        # of a cell's pixels that have to be labelled for it to be no background


class TokenSet(NamedTuple):
  """Frozen tokens of some images of both splits, and what is in their cells: 0 background, 1 + class."""

  train_x: np.ndarray               # f32 [N T D]
  train_y: np.ndarray               # int32 [N T]
  test_x: np.ndarray                # f32 [M T D]
  test_y: np.ndarray                # int32 [M T]


def missing(features: F.FeatureSet) -> str:
  """Why there are no cells to classify; "" where there are."""
  return "" if _grid(features.subject) else "it needs a source with masks and tokens on a square grid"


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             images: int = 1000, penalties: Sequence[float] = GRID, held_out: float = 0.2,
             tolerance: float = 1e-4, limit: int = 1000) -> list[results.Row]:
  """Mean intersection over union, row "segment", and the share of cells that are right, "segment_accuracy".

  The penalty is the one with the best mIoU on a seeded share `held_out` of the train images (ties: the
  stronger); then a refit on all of them.

  Args:
    images: at most so many train and so many test images, drawn by `seed`; every row sees the same.

  Raises:
    ValueError: what is `missing`, fewer than two train images or classes, non-finite tokens.
  """
  if why := missing(features):
    raise ValueError(f"{row}: no segmentation probe, since {why}")
  tokens = _tokens(features.subject, images, seed)
  flat = F.FeatureSet(*(np.asarray(a).reshape(-1, *a.shape[2:]) for a in tokens))
  F.check(flat, row=f"{row}, tokens")
  count, cells = tokens.train_y.shape
  k, y, test_y = C.classes_of(flat)
  if count < 2 or k < 2:
    raise ValueError(f"{row}: the segmentation probe needs two train images and two classes in their cells, "
                     f"found {count} and {k}; use more of train, or leave this evaluator out")
  x, test_x = C.standardise(flat)
  order, some = np.random.default_rng([seed, 4]).permutation(count), max(1, round(held_out * count))
  out = np.repeat(np.isin(np.arange(count), order[:min(some, count - 1)]), cells)       # whole images
  hot = np.eye(k, dtype=np.float32)[y]
  fit = lambda rows, penalty, start: logistic.solve(
      x[rows], hot[rows], np.full(len(x[rows]), 1 / len(x[rows]), np.float32), jnp.float32(penalty), *start,
      tolerance=tolerance, limit=limit)

  start, best, tried = (jnp.zeros((x.shape[1], k)), jnp.zeros(k)), None, []
  for penalty in sorted(penalties, reverse=True):
    found = fit(~out, penalty, start)
    start = found.weight, found.bias
    score, _ = scores(_confusion(x[out], y[out], *start, k))
    tried.append({"penalty": penalty, "score": round(score, 5)})
    if best is None or score > best[0]:
      best = score, penalty, start
  found = fit(slice(None), best[1], best[2])
  gradient = float(found.gradient)
  if gradient > tolerance:
    logging.warning("%s: the segmentation probe stopped after %d iterations at gradient norm %.2g > %.2g; "
                    "raise `limit`", row, int(found.iterations), gradient, tolerance)
  score, accuracy = scores(_confusion(test_x, test_y, found.weight, found.bias, k))
  record = {**(protocol or {}), "version": VERSION, "features": "tokens, encoder frozen",
            "counts": C.counts(flat) | {"train_images": count, "test_images": len(tokens.test_y),
                                        "cells": cells},
            "standardisation": C.STANDARDISED, "classifier": logistic.CLASSIFIER,
            "labels": "commonest class of a cell's labelled pixels where those are at least "
                      f"{SHARE:g} of it, else background",
            "settings": {"images": images, "penalties": list(penalties), "held_out": held_out,
                         "tolerance": tolerance, "limit": limit},
            "selection": "mIoU on a seeded held-out share of the train images, ties to the stronger; refit "
                         "on all",
            "eval_seed": seed,
            "outcome": {"penalty": best[1], "held_out_score": best[0], "iterations": int(found.iterations),
                        "gradient_norm": gradient, "path": tried}}
  return [results.result(row, "segment", score, record),
          results.result(row, "segment_accuracy", accuracy, record)]


def scores(confusion: np.ndarray) -> tuple[float, float]:
  """(mean IoU, accuracy) of counts [K+1 K] (true class, guess); the last row is of classes that train lacks.

  A class that is neither there nor guessed is left out of the mean. Those that train lacks count once, as an
  IoU of 0.
  """
  known = confusion[:-1]
  right = np.diag(known)
  union = known.sum(1) + confusion.sum(0) - right
  iou = right[union > 0] / union[union > 0]
  count = len(iou) + bool(confusion[-1].any())
  return float(iou.sum() / count), float(right.sum() / confusion.sum())


def _confusion(x: np.ndarray, y: np.ndarray, weight: jax.Array, bias: jax.Array, k: int) -> np.ndarray:
  """int [K+1 K]; y is -1 for a class that train lacks, which becomes the last row."""
  guess = np.asarray(_guess(x, weight, bias))
  return np.bincount((y % (k + 1)) * k + guess, minlength=(k + 1) * k).reshape(k + 1, k)


@jax.jit
def _guess(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
  return jnp.argmax(jnp.matmul(x, weight, precision="float32") + bias, -1)


# Cells


def _grid(subject: F.Subject | None) -> int:
  """Cells a side of the encoder's tokens; 0 where there are no masks, or no square grid to lay over them."""
  if subject is None or any(s.arrays is None or "mask" not in s.arrays or s.shape[0] != s.shape[1]
                            for s in (subject.train, subject.test)):
    return 0
  count = subject.tokens()
  side = round(count ** 0.5)
  return side if side * side == count and side <= subject.train.shape[0] else 0


def _tokens(subject: F.Subject, images: int, seed: int) -> TokenSet:
  """Of at most so many images of each split."""
  grid, found = _grid(subject), []
  for source in (subject.train, subject.test):
    part = F.limited(source, images, seed)
    if subject.method is None:
      x = pixels(part.arrays["image"], grid)
    else:
      x = F.extract(subject, part, pool="flat")[0].reshape(part.length, grid ** 2, -1)
    found += [x, cells(part.arrays["mask"], grid)]
  return TokenSet(*found)


def cells(mask: np.ndarray, grid: int) -> np.ndarray:
  """Labels of the cells, int32 [N T], row-major: masks uint8 [N H H] (0: background) on a grid of G x G.

  A pixel belongs to the cell that holds its upper left corner, so sizes need not divide.
  """
  n, size = mask.shape[:2]
  of = np.arange(size) * grid // size
  of = of[:, None] * grid + of                                                  # [H W]
  classes = int(mask.max()) + 1
  at = (np.arange(n)[:, None, None] * grid ** 2 + of) * classes + mask
  count = np.bincount(at.ravel(), minlength=n * grid ** 2 * classes).reshape(n, grid ** 2, classes)
  labelled = count[..., 1:].sum(-1)
  enough = (labelled > 0) & (labelled >= SHARE * count.sum(-1))
  return np.where(enough, 1 + count[..., 1:].argmax(-1) if classes > 1 else 0, 0).astype(np.int32)


def pixels(image: np.ndarray, grid: int) -> np.ndarray:
  """Raw pixels of every cell in [0, 1], f32 [N T S*S*C]: the floor of every token. uint8 [N H H C].

  Where G does not divide H, cells take S = ceil(H / G) pixels and so share some with their neighbours.
  """
  size = image.shape[1]
  side = -(-size // grid)
  first = np.minimum(-(-np.arange(grid) * size // grid), size - side)           # [G]
  at = first[:, None] + np.arange(side)                                         # [G S]
  cut = image[:, at[:, None, :, None], at[None, :, None, :]]                    # [N G G S S C]
  return cut.reshape(len(image), grid ** 2, -1).astype(np.float32) / np.float32(255)
