"""What evaluators eat and what they give: frozen features with labels in, rows of results out.

An evaluator is a function `(features: FeatureSet, *, row, seed, protocol, **settings) -> list[Row]`. It
never sees a model, a config or a mesh; this file is where an embed function and a source become arrays. Those
that need more than a vector an image call a closure of the FeatureSet, which costs nothing until then.

Shape letters: N examples, D width, B batch, H W C image, T tokens, K classes.
"""
from collections.abc import Callable, Iterable, Mapping
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jepa.types import Batch, Features

Row = dict[str, Any]      # {"row", "metric", "mean", "sd", "seeds", "protocol"}; accuracies in [0, 1]

POOLS = {
    "pooled": lambda f: f.pooled,                                   # what the method calls its representation
    "mean": lambda f: f.tokens.mean(1),
    "max": lambda f: f.tokens.max(1),
    "mean_std": lambda f: jnp.concatenate([f.tokens.mean(1), f.tokens.std(1)], -1),
    "flat": lambda f: f.tokens.reshape(f.tokens.shape[0], -1),      # every token, side by side: [N tokens*D]
}


class TokenSet(NamedTuple):
  """Frozen tokens of some images of both splits, and what is in their cells: 0 background, 1 + class."""

  train_x: np.ndarray               # f32 [N T D]
  train_y: np.ndarray               # int32 [N T]
  test_x: np.ndarray                # f32 [M T D]
  test_y: np.ndarray                # int32 [M T]


class FeatureSet(NamedTuple):
  """Frozen features of a train and a test split; labels are -1 where an example has none."""

  train_x: np.ndarray               # f32 [N D]
  train_y: np.ndarray               # int32 [N]
  test_x: np.ndarray                # f32 [M D]
  test_y: np.ndarray                # int32 [M]
  # (images=, seed=): so many of each split at most; None where the source has no masks.
  tokens: Callable[..., TokenSet] | None = None
  # (seed=, ...) -> (test accuracy, outcome), see finetune.train; None where there is no encoder.
  tune: Callable[..., tuple[float, dict[str, Any]]] | None = None
  # (windows=, length=, chunk=, seed=) -> open_loop.Curves; None where no world model or no trajectories are.
  imagine: Callable[..., Any] | None = None


def extract(embed: Callable[[Batch], Features], source: Any, *, batch: int,
            put: Callable[[Batch], Batch] | None = None,
            pool: str = "pooled") -> tuple[np.ndarray, np.ndarray]:
  """Features and labels of every readable example of `source`, in its order.

  Args:
    embed: batch -> Features, jitted by the caller; it sees one shape only, since the last batch is padded.
    source: a `jepa.data.sources.Source`.
    batch: global batch size.
    put: moves a batch of NumPy arrays to the device or the mesh; None leaves that to `embed`.
    pool: which vector is probed: "pooled", "mean", "max" or "flat" of the tokens. Belongs into the protocol.

  Returns:
    x f32 [N D], y int32 [N].

  Raises:
    ValueError: unknown pool, or a source without a readable example.
  """
  from jepa.data import pipeline    # here: the statistics need no data room
  if pool not in POOLS:
    raise ValueError(f"unknown pool {pool!r}; known: {', '.join(POOLS)}")
  return collect(embed, pipeline.epoch(source, batch=batch), put=put, pool=pool,
                 batches=-(-source.length // batch))


def collect(embed: Callable[[Batch], Features], batches_of: Iterable[tuple[Batch, int]], *,
            put: Callable[[Batch], Batch] | None = None, pool: str = "pooled",
            batches: int | None = None) -> tuple[np.ndarray, np.ndarray]:
  """`extract` over an iterator of (padded batch, number of valid rows)."""
  xs, ys, waiting = [], [], None
  bar = tqdm(batches_of, total=batches, desc="features", unit="batch", leave=False, delay=2.0,
             disable=not sys.stderr.isatty())
  for batch, valid in bar:
    label = np.asarray(batch["label"][:valid], np.int32)
    x = POOLS[pool](embed(put(batch) if put else batch))
    if waiting is not None:         # one batch behind: the device computes while the host copies and decodes
      xs.append(_fetch(*waiting))
    waiting = (x, valid)
    ys.append(label)
  if waiting is None:
    raise ValueError("the source has no readable example: nothing to extract features from")
  xs.append(_fetch(*waiting))
  return np.concatenate(xs), np.concatenate(ys)


def _fetch(x: jax.Array, valid: int) -> np.ndarray:
  """The first `valid` rows on the host, also where other processes hold some of them."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x, np.float32)[:valid]


def pixels(source: Any) -> tuple[np.ndarray, np.ndarray]:
  """Flattened raw pixels in [0, 1] f32 [N H*W*C] and labels int32 [N]: the floor of every encoder."""
  if source.arrays is not None:
    image, label = source.arrays["image"], source.arrays["label"]
  else:
    examples = [e for e in map(source.get, range(source.length)) if e is not None]
    if not examples:
      raise ValueError("the source has no readable example: no raw pixels to probe")
    image, label = (np.stack([e[k] for e in examples]) for k in ("image", "label"))
  x = np.asarray(image, np.float32).reshape(len(image), -1) / np.float32(255)
  return x, np.asarray(label, np.int32)


def check(features: FeatureSet, *, row: str) -> None:
  """Refuses features that no statistic can be trusted on.

  Raises:
    ValueError: shapes that do not fit together, an empty split, or non-finite values; names the row, split
    and example.
  """
  for split, x, y in (("train", features.train_x, features.train_y),
                      ("test", features.test_x, features.test_y)):
    if x.ndim != 2 or len(x) != len(y) or len(x) == 0:
      raise ValueError(f"{row}, {split}: features must be [N D] with N labels and N > 0, got {x.shape} "
                       f"and {y.shape}")
    finite = np.isfinite(x).all(1)
    if not finite.all():
      bad = np.flatnonzero(~finite)
      raise ValueError(f"{row}, {split}: {len(bad)} of {len(x)} examples have non-finite features (first: "
                       f"example {bad[0]}). The encoder diverged or overflowed: "
                       "evaluate an earlier checkpoint, lower the learning rate, or compute in f32.")
  if features.train_x.shape[1] != features.test_x.shape[1]:
    raise ValueError(
        f"{row}: train has {features.train_x.shape[1]} features and test {features.test_x.shape[1]}")


def labelled(features: FeatureSet) -> FeatureSet:
  """Only the examples that have a label (>= 0)."""
  train, test = features.train_y >= 0, features.test_y >= 0
  return FeatureSet(features.train_x[train], features.train_y[train],
                    features.test_x[test], features.test_y[test])


def standardise(features: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
  """(train_x, test_x) in units of train's mean and standard deviation; a dimension that is constant on train
  becomes 0.

  "Constant" is relative to the size of the values, because the mean of N equal f32 numbers is not exactly
  that number.
  """
  mean = features.train_x.mean(0, dtype=np.float64)
  sd = features.train_x.std(0, dtype=np.float64)
  alive = sd > 1e-6 * np.maximum(np.abs(mean), 1e-6)
  scale = np.where(alive, 1 / np.where(alive, sd, 1), 0)
  mean, scale = mean.astype(np.float32), scale.astype(np.float32)
  return (features.train_x - mean) * scale, (features.test_x - mean) * scale


STANDARDISED = "per dimension: mean and standard deviation of the train split; constant dimensions set to 0"


def counts(features: FeatureSet) -> dict[str, int]:
  """Sizes for a protocol record."""
  return {"train": len(features.train_x), "test": len(features.test_x), "dim": features.train_x.shape[1],
          "classes": len(np.unique(features.train_y[features.train_y >= 0]))}


def classes_of(features: FeatureSet) -> tuple[int, np.ndarray, np.ndarray]:
  """(K, train labels in [0, K), test labels, -1 for a class that train does not have)."""
  classes, train = np.unique(features.train_y, return_inverse=True)
  position = np.clip(np.searchsorted(classes, features.test_y), 0, len(classes) - 1)
  test = np.where(classes[position] == features.test_y, position, -1)
  return len(classes), train.astype(np.int32), test.astype(np.int32)


def result(row: str, metric: str, values: float | np.ndarray, protocol: Mapping[str, Any]) -> Row:
  """A row of results.json. `values`: one number, or one number per independent draw."""
  values = np.atleast_1d(np.asarray(values, np.float64))
  sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
  return {"row": row, "metric": metric, "mean": float(values.mean()), "sd": sd, "seeds": len(values),
          "protocol": dict(protocol)}


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of examples whose largest logit is the label's."""
  return jnp.mean(jnp.argmax(logits, -1) == labels)
