"""Trajectories of a world (jepa/worlds), generated on the device inside the train step.

Example i of a split is a pure function of (seed, i): a layout and a start from `reset`, actions from the
world's published behaviour, frames from `render`. A batch on the host holds only the indices, so nothing is
stored or copied, epochs and held-out parts mean what they do elsewhere, and a run resumes bit for bit.

Shape letters: T frames, A action, P position, H W C image.
"""
from collections.abc import Callable
import functools
import importlib
from typing import Any

import numpy as np

from jepa.data import splits
from jepa.data.source import Source, moments, row


def make(split: str, *, name: str = "two_rooms", args: dict = {}, length: int = 17, n: int = 100_000,
         test: int = 1_000, seed: int = 0, span: int = 0, normalise: int = 0) -> Source:
  """Trajectories of `length` frames: "image" uint8 [T H W C], "action" f32 [T-1 A], "position" f32 [T P].

  Args:
    name, args: of worlds.make. n, test: trajectories to train and to test on.
    span: frames of what a trajectory is a window of, at a place drawn for it, so that it may begin where the
      behaviour has led, such as at a wall; 0: it begins where the behaviour does.
    normalise: from so many of the training trajectories, means and standard deviations of actions and
      positions go into the model (see jepa/wrappers.py); 0: it sees them as they are.

  Raises:
    ValueError: fewer than two frames, a span of fewer than those, a world that steps on the host, and what
      worlds.make raises.
  """
  if length < 2:
    raise ValueError(f"length = {length}: a trajectory has two frames at least (config.data.args.length)")
  if span and span < length:
    raise ValueError(f"span = {span}: no window of {length} frames fits; give as many at least, or 0 "
                     "(config.data.args.span)")
  worlds = importlib.import_module("jepa.worlds")     # a room above, which reads recordings from this one
  if worlds.hosted(name):
    raise ValueError(f"{name} steps on the host, and no batch inside of a step: write its trajectories with "
                     "python -m jepa.worlds.collect, and read them with config.data.source = 'trajectories'")
  made = worlds.make(name, **args)
  index = splits.select(split, {"train": np.arange(n), "test": np.arange(n, n + test)}).astype(np.int32)
  arrays = {"label": np.full(len(index), -1, np.int32), "index": index}
  generate = functools.partial(worlds.trajectory, made, length, seed, span=span)
  return Source(
      length=len(index), classes=0, shape=(length, *made.image), get=functools.partial(row, arrays),
      arrays=arrays, generate=generate,
      normaliser=_normaliser(generate, min(n, normalise)) if normalise else None,
      describe=f"{made.name} version {made.version} {args or ''}, {split}, {len(index)} trajectories of "
               f"{length} frames{f' of {span}' if span else ''} (seed {seed})")


def _normaliser(generate: Callable[[Any], dict[str, Any]], count: int) -> dict[str, dict[str, np.ndarray]]:
  """Of the first `count` trajectories; their frames are not drawn."""
  import jax
  few = lambda index: {k: v for k, v in generate(index).items() if k != "image"}
  found = jax.device_get(jax.jit(jax.vmap(few))(np.arange(count)))
  return {k: moments(v.reshape(-1, v.shape[-1])) for k, v in found.items()}
