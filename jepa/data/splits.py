"""Splits: "train", "test", "train[:10%]", "train[100:200]+test", for sources that bring none or only whole
ones.

Where a data set has no test part of its own, `holdout` makes one: a fixed share of every class, drawn by a
fixed seed from the examples in the order of the source. It depends on nothing but that order and the labels,
so train and test never mix between runs.
"""
from collections.abc import Mapping
import re

import numpy as np

from jepa.data import order
from jepa.data.source import Source, from_arrays

TEST_SHARE = 0.2                    # of every class, where a source has no test part of its own
_SPLIT, _HOLDOUT = 1, 2             # entropy, so that the two draws are independent of each other
_PART = re.compile(r"^\s*(\w+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*$")


def holdout(label: np.ndarray, share: float = TEST_SHARE) -> dict[str, np.ndarray]:
  """{"train", "test"}: ascending positions; round(share * n) of the n examples of each class are "test".

  Args:
    label: int [N]; all -1 (unlabelled) counts as one class.

  Raises:
    ValueError: share is not in (0, 1).
  """
  if not 0 < share < 1:
    raise ValueError(f"the share held out for testing is {share}; must be between 0 and 1")
  test = np.zeros(len(label), bool)
  for c in np.unique(label):
    members = np.flatnonzero(label == c)
    test[members[order.shuffled(len(members), _HOLDOUT, int(c) + 1)[:int(share * len(members) + 0.5)]]] = True
  return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


def select(split: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
  """Ascending positions of the examples in `split`.

  A slice is a fixed random part of its base, not a range of it: sources are often sorted by class. So
  "train[:10%]" has about a tenth of every class, and "train[:10%]" and "train[10%:]" are disjoint and
  together "train". "all" is every part together.

  Raises:
    ValueError: not a split, an unknown part, one example selected twice, or nothing selected.
  """
  bases = dict(parts) | {"all": np.concatenate(list(parts.values()))}
  chosen = []
  for text in split.split("+"):
    match = _PART.match(text)
    if not match or match.group(1) not in bases:
      raise ValueError(f"unknown split {split!r}; write {', '.join(bases)}, a slice such as "
                       f"{next(iter(bases))}[:10%], or a sum of them with +")
    base = bases[match.group(1)]
    start, stop = _place(match.group(2), len(base), 0), _place(match.group(3), len(base), len(base))
    whole = (start, stop) == (0, len(base))
    chosen.append(base if whole else base[order.shuffled(len(base), _SPLIT)[start:stop]])
  index = np.sort(np.concatenate(chosen))
  if not len(index):
    raise ValueError(f"split {split!r} is empty; sizes: "
                     f"{', '.join(f'{k} {len(v)}' for k, v in bases.items())}")
  if (np.diff(index) == 0).any():
    raise ValueError(f"split {split!r} selects examples twice")
  return index


def source_of(title: str, split: str, image: np.ndarray, label: np.ndarray,
              parts: Mapping[str, np.ndarray] | None = None, **more: np.ndarray) -> Source:
  """The examples of `split` among all of a set, which is in memory.

  Args:
    title: what the set is called in records.
    image, label: uint8 [N H W C] and int [N], -1 for none. more: see `source.from_arrays`.
    parts: as of `select`; None: those of `holdout`.
  """
  label = label.astype(np.int32)
  index = select(split, parts or holdout(label))
  classes = int(label.max()) + 1
  describe = f"{title}, {split}, {len(index)} images {'x'.join(map(str, image.shape[1:]))}, {classes} classes"
  return from_arrays(image[index], label[index], classes=classes, describe=describe,
                     **{k: v[index] for k, v in more.items()})


def _place(bound: str | None, length: int, default: int) -> int:
  if bound is None:
    return default
  back = bound.startswith("-")
  size = bound.lstrip("-")
  place = int(int(size[:-1]) / 100 * length + 0.5) if size.endswith("%") else int(size)
  return min(length, max(0, length - place if back else place))
