"""A dot among walls: how it moves, how it wanders, how it looks.

Walls are axis-aligned boxes, solid without their surface. A move from p by d ends at p + t d, where t is the
least of 1 and of the times at which the segment enters a box (the slab method: a box is entered when the last
of its axes is, and missed when an axis is left before). The coordinate that was stopped is then set to the
wall's, so that it rests on the surface exactly and rounding never adds up.

Shape letters: K boxes, T steps, N pixels a side.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FAR = 1e6                         # pixels; where a box does not end, and where boxes go that are not there
GRAZE = 1e-4                      # pixels; a way through a box no longer than this is rounding at its corner

# Published law of training actions (after PLDM, arXiv 2502.14819): the heading is a random walk with von
# Mises increments of concentration 1 / TURN, the length of a step a truncated normal.
TURN = 0.2
LENGTH = dict(mean=1.0, sd=0.4, low=0.2, high=1.8)      # pixels


class Boxes(NamedTuple):
  low: jax.Array                  # f32 [K 2] x, y
  high: jax.Array                 # f32 [K 2]


def move(position: jax.Array, step: jax.Array, boxes: Boxes) -> jax.Array:
  """f32 [2]: where a dot at `position` [2] gets to that moves by `step` [2].

  A position outside every box leads to one outside every box, in f32 too: where rounding at a joint of two
  boxes leaves the end inside one of them, the dot stays where it was.
  """
  moving = step != 0
  rate = jnp.where(moving, step, 1.0)
  low, high = (boxes.low - position) / rate, (boxes.high - position) / rate
  between = (boxes.low < position) & (position < boxes.high)
  enter = jnp.where(moving, jnp.minimum(low, high), jnp.where(between, -jnp.inf, jnp.inf))      # [K 2]
  leave = jnp.where(moving, jnp.maximum(low, high), jnp.where(between, jnp.inf, -jnp.inf)).min(-1)
  time, axis = jnp.maximum(enter.max(-1), 0.0), enter.argmax(-1)
  met = (time < 1) & (time + GRAZE / jnp.maximum(jnp.abs(step).max(), GRAZE) < leave)
  time = jnp.where(met, time, 1.0)
  first = time.argmin()
  surface = jnp.where(step > 0, boxes.low[first], boxes.high[first])
  stopped = met[first] & (jnp.arange(2) == axis[first])
  end = jnp.where(stopped, surface, position + time[first] * step)
  return jnp.where(inside(end, boxes).any(), position, end)


def inside(position: jax.Array, boxes: Boxes) -> jax.Array:
  """bool [K]: whether `position` [2] is within each box, its surface not counted."""
  return ((boxes.low < position) & (position < boxes.high)).all(-1)


def turns(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Increments of the heading in radians: von Mises about 0, by inversion of its tabled distribution."""
  angle = np.linspace(-math.pi, math.pi, 2049)
  density = np.exp((np.cos(angle) - 1) / TURN)
  share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
  return jnp.interp(jax.random.uniform(key, shape), jnp.asarray(share / share[-1], jnp.float32),
                    jnp.asarray(angle, jnp.float32))


def lengths(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Lengths of steps in pixels."""
  mean, sd = LENGTH["mean"], LENGTH["sd"]
  return mean + sd * jax.random.truncated_normal(key, (LENGTH["low"] - mean) / sd,
                                                 (LENGTH["high"] - mean) / sd, shape)


def vector(heading: jax.Array, length: jax.Array) -> jax.Array:
  """f32 [2] of polar coordinates; radians from x towards y."""
  return length * jnp.stack([jnp.cos(heading), jnp.sin(heading)])


def straight(position: jax.Array, goal: jax.Array, longest: float) -> jax.Array:
  """f32 [2]: the step from `position` to `goal`, both [2], shortened to `longest`."""
  way = goal - position
  return way * jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(way), 1e-6))


def blob(position: jax.Array, centres: np.ndarray, sd: float) -> jax.Array:
  """f32 [N N] in [0, 1], rows along y: exp(-r^2 / (2 sd^2)) about `position` [2], at pixel `centres` [N]."""
  x, y = jnp.exp(jnp.square(centres - position[:, None]) * (-0.5 / sd**2))
  return y[:, None] * x
