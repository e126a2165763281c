"""What evaluators eat: frozen features with labels, and what is behind them.

An evaluator is a file of this folder, or a module of another repository, and says itself what it is:

  evaluate   (features: FeatureSet, *, row, seed, protocol, **settings) -> rows of jepa/evals/results.py
  COLUMNS    what it fills of the table: (metric, two lines of title, "percent" or "number")
  ORDER      where these stand among those of others, percents before numbers; without it, last
  LABELS     True where it needs labels
  missing    features -> why they cannot be measured, "" where they can; without it, all can

It never sees a config or a mesh; this file is where an embed function and a source become arrays. Those that
need more than a vector an image find it in the FeatureSet's `subject`.

Shape letters: N examples, D width, B batch, H W C image, T tokens, K classes.
"""
from collections.abc import Callable, Iterable
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jepa.data import pipeline
from jepa.data.source import Source
from jepa.types import Batch, Extra, Features, Method, Params, WorldModel

POOLS = {
    "pooled": lambda f: f.pooled,                                   # what the method calls its representation
    "mean": lambda f: f.tokens.mean(1),
    "max": lambda f: f.tokens.max(1),
    "mean_std": lambda f: jnp.concatenate([f.tokens.mean(1), f.tokens.std(1)], -1),
    "flat": lambda f: f.tokens.reshape(f.tokens.shape[0], -1),      # every token, side by side: [N T*D]
}


class Subject(NamedTuple):
  """What is behind the features of a row."""

  train: Source
  test: Source
  method: Method | None = None      # whose embed gives the features; None: they are raw pixels
  params: Params = None
  extra: Extra = None
  world: WorldModel | None = None   # of the method, where it has one
  tokens: Callable[[], int] = lambda: 0       # T of the run's encoder, of raw pixels the one beside them
  batch: int = 500                  # global, in which features are extracted
  pieces: int = 1                   # that a batch has to split into
  shardings: tuple[Any, Any] = (None, None)   # of what every device holds, and of a batch; None: one device
  # keyword arguments of the source -> (train, test), opened with these
  reopen: Callable[..., tuple[Source, Source]] | None = None


class FeatureSet(NamedTuple):
  """Frozen features of a train and a test split; labels are -1 where an example has none."""

  train_x: np.ndarray               # f32 [N D]
  train_y: np.ndarray               # int32 [N]
  test_x: np.ndarray                # f32 [M D]
  test_y: np.ndarray                # int32 [M]
  subject: Subject | None = None


def extract(subject: Subject, source: Source, *, pool: str = "pooled") -> tuple[np.ndarray, np.ndarray]:
  """Features f32 [N D], by the subject's method on its mesh, and labels int32 [N] of every readable example
  of `source`, in its order. `pool`: which vector is probed, a key of POOLS; belongs into the protocol.

  Raises:
    ValueError: unknown pool, or a source without a readable example.
  """
  if pool not in POOLS:
    raise ValueError(f"unknown pool {pool!r}; known: {', '.join(POOLS)}")
  whole, split = subject.shardings
  embed = jax.jit(subject.method.embed, out_shardings=whole)
  return collect(lambda batch: embed(subject.params, subject.extra, batch),
                 pipeline.epoch(source, batch=subject.batch), put=lambda batch: jax.device_put(batch, split),
                 pool=pool, batches=-(-source.length // subject.batch))


def collect(embed: Callable[[Batch], Features], batches_of: Iterable[tuple[Batch, int]], *,
            put: Callable[[Batch], Batch] | None = None, pool: str = "pooled",
            batches: int | None = None) -> tuple[np.ndarray, np.ndarray]:
  """(features f32 [N D], labels int32 [N]) of an iterator of (padded batch, number of valid rows).

  Args:
    embed: batch -> Features, jitted by the caller; it sees one shape only, since the last batch is padded.
    put: moves a batch of NumPy arrays to the device or the mesh; None leaves that to `embed`.
  """
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


def pixels(source: Source) -> tuple[np.ndarray, np.ndarray]:
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


def limited(source: Source, limit: int, seed: int = 0) -> Source:
  """A fixed random subset of a source, in its order: for evaluations during training, or of many tokens an
  image. All of it where there are no more, or for a limit of 0.
  """
  if not limit or limit >= source.length:
    return source
  index = np.sort(np.random.default_rng(seed).permutation(source.length)[:limit])
  arrays = source.arrays and {k: v[index] for k, v in source.arrays.items()}
  return source._replace(length=limit, get=lambda i: source.get(int(index[i])), arrays=arrays,
                         describe=f"{source.describe}, {limit} of them at random (seed {seed})")


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
