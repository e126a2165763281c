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
from jepa.data.source import Source, moments, row


def world(split: str, *, name: str = "two_rooms", args: dict = {}, length: int = 17, n: int = 100_000,
          test: int = 1_000, seed: int = 0, span: int = 0, normalise: int = 0) -> Source:
  """Trajectories of `length` frames: "image" uint8 [T H W C], "action" f32 [T-1 A], "position" f32 [T P].

  Args:
    name, args: of worlds.make. n, test: trajectories to train and to test on.
    span: frames of what a trajectory is a window of, at a place drawn for it, so that it may begin where the
      behaviour has led, such as at a wall; 0: it begins where the behaviour does.
    normalise: from so many of the training trajectories, means and standard deviations of actions and positions go
      into the model (see jepa/experiment.py); 0: it sees them as they are.

  Raises:
    ValueError: fewer than two frames, a span of fewer than those, and what worlds.make raises.
  """
  from jepa import worlds
  if length < 2:
    raise ValueError(f"length = {length}: a trajectory has two frames at least (config.data.args.length)")
  if span and span < length:
    raise ValueError(f"span = {span}: no window of {length} frames fits; give as many at least, or 0 "
                     "(config.data.args.span)")
  made = worlds.make(name, **args)
  index = splits.select(split, {"train": np.arange(n), "test": np.arange(n, n + test)}).astype(np.int32)
  arrays = {"label": np.full(len(index), -1, np.int32), "index": index}
  generate = functools.partial(trajectory, made, length, seed, span=span)
  return Source(
      length=len(index), classes=0, shape=(length, *made.image), get=functools.partial(row, arrays),
      arrays=arrays, generate=generate, normaliser=_normaliser(generate, min(n, normalise)) if normalise else None,
      describe=f"{made.name} version {made.version} {args or ''}, {split}, {len(index)} trajectories of "
               f"{length} frames{f' of {span}' if span else ''} (seed {seed})")


def trajectory(made, length: int, seed: int, index, *, span: int = 0) -> dict[str, Any]:
  """Trajectory `index` int32 []; arguments as of `world`."""
  import jax      # here: sources need no JAX until one of these is asked for
  from jepa import worlds
  key = jax.random.fold_in(jax.random.key(seed), index)
  start, behaviour = jax.random.split(key)
  state = made.reset(start)
  actions = made.behave(behaviour, state, (span or length) - 1)
  states = worlds.rollout(made, state, actions)
  if span:
    first = jax.random.randint(jax.random.fold_in(key, 2), (), 0, span - length + 1)
    window = lambda x, count: jax.lax.dynamic_slice_in_dim(x, first, count)
    states, actions = jax.tree.map(lambda x: window(x, length), states), window(actions, length - 1)
  return {"image": jax.vmap(made.render)(states), "action": actions,
          "position": jax.vmap(made.position)(states)}


def _normaliser(generate, count: int) -> dict[str, dict[str, np.ndarray]]:
  """Of the first `count` trajectories; their frames are not drawn."""
  import jax
  few = lambda index: {k: v for k, v in generate(index).items() if k != "image"}
  found = jax.device_get(jax.jit(jax.vmap(few))(np.arange(count)))
  return {k: moments(v.reshape(-1, v.shape[-1])) for k, v in found.items()}
