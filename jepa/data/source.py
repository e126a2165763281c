"""What a data set is, and what one example of it looks like: the one place that knows.

An image is [H W C]; trajectories and, later, clips have a frame axis before it, [T H W C]. Whoever has to
tell the two apart asks `sequences`.

Shape letters: N examples, B batch, T frames, H W C image, L length of a caption, A action, P position.
"""
from collections.abc import Callable, Mapping
import functools
import os
from typing import Any, NamedTuple

import numpy as np

from jepa import config

# "image" uint8 [H W C], "label" int32 [], "index" int32 []; of some sources "text" int32 [L] (jepa/text.py)
# and "mask" uint8 [H W]: 0 background, 1 + class.
Example = dict[str, np.ndarray]

THREADS = min(8, os.cpu_count() or 1)      # that decode


class Source(NamedTuple):
  """A data set split with random access."""

  length: int
  classes: int                                # 0 where unlabelled
  shape: tuple[int, ...]                      # H W C, or T H W C
  get: Callable[[int], Example | None]        # None for an unreadable example
  arrays: Mapping[str, np.ndarray] | None     # stacked examples where they fit in memory: the fast path
  describe: str                               # name, version, split, size: goes into protocol records
  text: int = 0                               # L of its captions; 0 where there are none
  # index int32 [] -> the rest of an example, in JAX: made on the device inside the step, not on the host
  generate: Callable[[Any], dict[str, Any]] | None = None
  # of trajectories: {"action", "position"} -> `moments`; standardises them inside the model
  normaliser: Mapping[str, Mapping[str, np.ndarray]] | None = None


_ALSO = {"npz": "arrays", "npy": "arrays"}        # other names of the same file


def make(name: str, split: str, /, **args) -> Source:
  """Opens a split of the source of jepa/data/sources/<name>.py, or of a dotted name. `name` and `split` are
  positional, since a source may have an argument `name` of its own.

  Raises:
    ValueError: unknown source or argument, with a suggestion, or a missing one; and what the source itself
      raises.
  """
  source = config.module(_ALSO.get(name, name), "jepa.data.sources")
  return config.call(functools.partial(source.make, split), "config.data.args", **args)


def sequences(source: Source) -> bool:
  """Whether its examples are frames in a row and not single images."""
  return len(source.shape) == 4


def noun(source: Source) -> str:
  """What its examples are called: "images" or "windows"."""
  return "windows" if sequences(source) else "images"


def keys(source: Source) -> tuple[str, ...]:
  """What a batch of `source` holds on the host. Masks are for evaluators only, so they are never in one."""
  if source.generate is not None:
    return "label", "index"
  return ("image", "label", "index") + (("text",) if source.text else ()) + steps(source)


def steps(source: Source) -> tuple[str, ...]:
  """Those of "action" and "position" that a recording holds beside its images."""
  return tuple(k for k in ("action", "position") if k in (source.arrays or {}))


def spec(source: Source, batch: int) -> dict[str, tuple[tuple[int, ...], Any]]:
  """(shape, dtype) of every array of a global batch on the host."""
  each = {"label": ((), np.int32), "index": ((), np.int32), "image": (source.shape, np.uint8),
          "text": ((source.text,), np.int32)}
  each |= {k: (source.arrays[k].shape[1:], source.arrays[k].dtype) for k in steps(source)}
  return {k: ((batch, *each[k][0]), each[k][1]) for k in keys(source)}


def moments(x: np.ndarray, repeat: int = 1) -> dict[str, np.ndarray]:
  """Mean and standard deviation of each column of [S C], f32 [repeat*C]; 1 in place of the deviation of a
  constant column, so that dividing by it is safe."""
  mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
  std = np.where(std > 1e-6 * np.maximum(1e-6, np.abs(mean)), std, 1.0)
  return {"mean": np.tile(mean, repeat).astype(np.float32), "std": np.tile(std, repeat).astype(np.float32)}


def from_arrays(image: np.ndarray, label: np.ndarray, *, classes: int, describe: str,
                **more: np.ndarray) -> Source:
  """A source of uint8 [N H W C] and int32 [N]; `more`: its mask uint8 [N H W] and text int32 [N L]."""
  arrays = {"image": image, "label": label.astype(np.int32), "index": np.arange(len(image), dtype=np.int32)}
  arrays |= more
  length = more["text"].shape[1] if "text" in more else 0
  return Source(len(image), classes, tuple(image.shape[1:]), functools.partial(row, arrays), arrays, describe,
                length)


def row(arrays: Mapping[str, np.ndarray], i: int) -> Example:
  """One example of stacked arrays."""
  return {k: np.asarray(v[i]) for k, v in arrays.items()}
