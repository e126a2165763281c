"""Trajectories of a world (jepa/worlds), generated on the device inside the train step.

Example i of a split is a pure function of (seed, i): a layout and a start from `reset`, actions from the
world's published behaviour, frames from `render`. A batch on the host holds only the indices, so nothing is
stored or copied, epochs and held-out parts mean what they do elsewhere, and a run resumes bit for bit.

Shape letters: T frames, A action, P position, H W C image.
"""
import functools
from typing import Any

import numpy as np

from jepa.data import splits
from jepa.data.memory import Source, moments, row


def world(split: str, *, name: str = "two_rooms", args: dict = {}, length: int = 17, n: int = 100_000,
          test: int = 1_000, seed: int = 0, normalise: int = 0) -> Source:
  """Trajectories of `length` frames: "image" uint8 [T H W C], "action" f32 [T-1 A], "position" f32 [T P].

  Args:
    name, args: of worlds.make. n, test: trajectories to train and to test on.
    normalise: from so many of the training trajectories, means and standard deviations of actions and positions go
      into the model (see jepa/experiment.py); 0: it sees them as they are.

  Raises:
    ValueError: fewer than two frames, and what worlds.make raises.
  """
  from jepa import worlds
  if length < 2:
    raise ValueError(f"length = {length}: a trajectory has two frames at least (config.data.args.length)")
  made = worlds.make(name, **args)
  index = splits.select(split, {"train": np.arange(n), "test": np.arange(n, n + test)}).astype(np.int32)
  arrays = {"label": np.full(len(index), -1, np.int32), "index": index}
  generate = functools.partial(trajectory, made, length, seed)
  return Source(
      length=len(index), classes=0, shape=(length, *made.image), get=functools.partial(row, arrays),
      arrays=arrays, generate=generate, normaliser=_normaliser(generate, min(n, normalise)) if normalise else None,
      describe=f"{made.name} version {made.version} {args or ''}, {split}, {len(index)} trajectories of "
               f"{length} frames (seed {seed})")


def trajectory(made, length: int, seed: int, index) -> dict[str, Any]:
  """Trajectory `index` int32 []."""
  import jax      # here: sources need no JAX until one of these is asked for
  from jepa import worlds
  start, behaviour = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
  state = made.reset(start)
  actions = made.behave(behaviour, state, length - 1)
  states = worlds.rollout(made, state, actions)
  return {"image": jax.vmap(made.render)(states), "action": actions,
          "position": jax.vmap(made.position)(states)}


def _normaliser(generate, count: int) -> dict[str, dict[str, np.ndarray]]:
  """Of the first `count` trajectories; their frames are not drawn."""
  import jax
  few = lambda index: {k: v for k, v in generate(index).items() if k != "image"}
  found = jax.device_get(jax.jit(jax.vmap(few))(np.arange(count)))
  return {k: moments(v.reshape(-1, v.shape[-1])) for k, v in found.items()}
