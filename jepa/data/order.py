"""Which example is row r of step t: a pure function of (seed, step), the same on every machine and for every
reader.

Every epoch is a new permutation of the N examples. The permutations are laid end to end and the resulting
stream is cut into batches, so no example is dropped and a batch may hold the end of one epoch and the start
of the next:

    stream[g] = permutation(seed, g // N)[g mod N],      row r of step t = stream[t B + r]

With P processes of b = B / P rows each, process p holds rows p b ... (p + 1) b - 1: the global batch does not
depend on P.
"""
import functools
from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
  """What fixes the stream of indices, and the share of it that this process reads."""

  length: int                       # N, examples in the source
  batch: int                        # B, global batch
  seed: int
  process: int                      # p
  processes: int                    # P


def shuffled(length: int, *entropy: int) -> np.ndarray:
  """A permutation of range(length), int64 [length]. Entropy: non-negative integers.

  Sorts raw bits, because NumPy promises those for ever and `Generator.permutation` only within a version.
  """
  return np.argsort(np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(length), kind="stable")


@functools.lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> np.ndarray:
  """The order of one epoch, int64 [length], read-only: batches of neighbouring steps share it."""
  order = shuffled(length, seed, epoch)
  order.flags.writeable = False
  return order


def make(*, length: int, batch: int, seed: int, process: int = 0, processes: int = 1) -> Order:
  """A checked Order.

  Raises:
    ValueError: an empty source, a batch that does not split over the processes, or a negative seed.
  """
  if length < 1:
    raise ValueError("the source is empty: there is nothing to train on; check the split and the path of the "
                     "data")
  if batch < 1 or batch % processes:
    raise ValueError(f"a global batch of {batch} does not split over {processes} processes; choose a "
                     f"multiple of {processes}")
  if not 0 <= process < processes:
    raise ValueError(f"process {process} of {processes}: must be in [0, {processes})")
  if seed < 0:
    raise ValueError(f"seed = {seed}: must not be negative")
  return Order(length, batch, seed, process, processes)


def rows(order: Order, step: int) -> np.ndarray:
  """Source indices of this process's rows at `step` (0 is the first), int64 [B / P]."""
  local = order.batch // order.processes
  stream = np.arange(local) + (step * order.batch + order.process * local)
  epoch, offset = np.divmod(stream, order.length)
  if epoch[0] == epoch[-1]:
    return permutation(order.length, order.seed, int(epoch[0]))[offset]
  return np.concatenate([permutation(order.length, order.seed, int(e))[offset[epoch == e]]
                         for e in np.unique(epoch)])


def state(order: Order, step: int) -> dict[str, int]:
  """The position after `step` batches, JSON-able. Holds no process count, so another one can go on from
  it.
  """
  return {"step": int(step), "seed": order.seed, "batch": order.batch, "length": order.length}


def step_of(order: Order, saved: dict[str, int]) -> int:
  """The step of a saved position.

  Raises:
    ValueError: it belongs to another stream (seed, batch or length differ), or is no position at all.
  """
  expected = state(order, 0)
  if missing := sorted(expected.keys() - saved.keys()):
    raise ValueError(f"not a position of a data stream, {', '.join(missing)} missing: {saved}")
  compared = ("seed", "batch", "length")
  if other := [f"{k} {saved[k]}, now {expected[k]}" for k in compared if saved[k] != expected[k]]:
    raise ValueError(f"the saved data position is of another stream ({'; '.join(other)}). Restore with the "
                     "data, batch and seed of the "
                     "checkpoint, or start a new run from its weights")
  return int(saved["step"])
