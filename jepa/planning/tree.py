"""A tree of imagined states that grows into what it has not reached yet (rapidly-exploring random trees,
LaValle, 1998, technical report 98-11; sparse as in Li et al., IJRR 2016, arXiv 1407.2896).

  S_0 = {z_0};   in round r, from each state of S_r-1: B random actions, each held for k steps
  S_r = those of the W * B ends that are farther than `apart` from every state so far, W at most: by turns the
        one nearest to the goal and any
  the plan: the actions on the way to the imagined state that is nearest to the goal

Where an obstacle stands between, the states nearest to the goal are a dead end, and a search that improves
one sequence of actions stays there. A tree cannot go where it has been, so it goes on wherever there is room.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from jepa.planning import Limits, Plan, Planner, PyTree, checked, clip, fresh, shift


def make(*, dynamics: Callable[[PyTree, jax.Array], PyTree], distance: Callable[[PyTree, PyTree], jax.Array],
         limits: Limits, horizon: int, width: int = 48, branches: int = 8, hold: int = 4, apart: float = 0.4,
         std: float | Sequence[float] = 1.0) -> Planner:
  """Executes the way to the state nearest to the goal, then nothing; their distance is the plan's energy.

  Args:
    dynamics: F(z, a [A]) -> z. Context and goal are such z: any pytree of arrays.
    distance: d(z, goal) -> f32 [].
    width, branches, hold: W, B and k. A tree has horizon / hold rounds.
    apart: in units of the root mean square length, in latents, of a first branch.
    std: of actions, before the limits shorten them: a large one makes them as long as they may be.

  Raises:
    ValueError: numbers that make no sense.
  """
  limits, std = checked(limits, horizon, std, width=width, branches=branches, hold=hold)
  if not apart >= 0:
    raise ValueError(f"apart is {apart}; give a number of at least 0")
  if horizon < hold:
    raise ValueError(f"actions held for {hold} steps exceed a horizon of {horizon}; lower hold")
  start = fresh(limits, horizon, std)
  search = Search(dynamics, distance, limits, horizon, width, branches, hold, apart, std)

  def plan(key, context, goal, plan):
    tree = grown(search, key, context, goal)
    actions = way(search, tree, start.mean)
    return Plan(actions, actions, start.std, tree.best.distance, ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))


class Search(NamedTuple):
  """The arguments of `make`."""

  dynamics: Callable[[PyTree, jax.Array], PyTree]
  distance: Callable[[PyTree, PyTree], jax.Array]
  limits: Limits
  horizon: int
  width: int
  branches: int
  hold: int
  apart: float
  std: np.ndarray


class Best(NamedTuple):
  """The imagined state nearest to the goal."""

  distance: jax.Array       # f32 []
  node: jax.Array           # int32 [], where its branch begins
  action: jax.Array         # f32 [A], of its branch
  steps: jax.Array          # int32 [], how long it was held


class Tree(NamedTuple):
  """What has grown; R rounds in all, the root first."""

  nodes: jax.Array          # f32 [1 + R W, D], inf where there is none
  parent: jax.Array         # int32 [1 + R W]
  action: jax.Array         # f32 [1 + R W, A], from the parent
  front: jax.Array          # int32 [W], the nodes of the last round
  best: Best
  unit: jax.Array           # f32 [], mean square length of a first branch


def grown(search: Search, key: jax.Array, context: PyTree, goal: PyTree) -> Tree:
  """The tree after all of its rounds."""
  root, back = ravel_pytree(context)

  def branch(z, action):
    """The state f32 [D] after `action` was held, and the distance to the goal of all on the way [k]."""
    def step(z, _):
      z = search.dynamics(z, action)
      return z, search.distance(z, goal)
    end, d = jax.lax.scan(step, back(z), None, length=search.hold)
    return ravel_pytree(end)[0], d

  rounds, a = search.horizon // search.hold, len(search.limits.low)
  size = 1 + rounds * search.width
  nodes = jnp.full((size, len(root)), jnp.inf).at[0].set(root)
  best = Best(search.distance(context, goal).astype(jnp.float32), jnp.int32(0), jnp.zeros(a), jnp.int32(0))
  tree = Tree(nodes, jnp.zeros(size, jnp.int32), jnp.zeros((size, a)), jnp.zeros(search.width, jnp.int32),
              best, jnp.float32(0))
  turns = jnp.arange(rounds), jax.random.split(key, rounds)
  return jax.lax.scan(lambda tree, turn: (grow(search, branch, tree, *turn), None), tree, turns)[0]


def grow(search: Search, branch: Callable, tree: Tree, r: jax.Array, key: jax.Array) -> Tree:
  """After round `r` int32 []."""
  nodes, parent, action, front, best, unit = tree
  width, tries = search.width, search.width * search.branches
  k_action, k_order = jax.random.split(key)
  source = jnp.repeat(front, search.branches)          # [W B], index of a node
  tried = clip(search.limits, search.std * jax.random.normal(k_action, (tries, len(search.limits.low))))
  alive = jnp.isfinite(nodes[source, 0])
  ends, d = jax.vmap(branch)(jnp.where(alive[:, None], nodes[source], nodes[0]), tried)
  d = jnp.where(alive[:, None] & jnp.isfinite(d), d, jnp.inf).astype(jnp.float32)
  i, steps = jnp.unravel_index(d.argmin(), d.shape)
  found = Best(d[i, steps], source[i], tried[i], steps + 1)
  best = jax.tree.map(lambda new, old: jnp.where(found.distance < best.distance, new, old), found, best)

  alive &= jnp.isfinite(ends).all(-1)
  ends = jnp.where(alive[:, None], ends, 0.0)
  unit = jnp.where(r == 0, jnp.square(ends - nodes[0]).sum(-1).mean(where=alive), unit)
  gap = search.apart**2 * unit
  order = jnp.stack([d[:, -1].argsort(), jax.random.permutation(k_order, tries)], 1).ravel()
  chosen = spread(ends[order], (alive & (nearest(ends, nodes) > gap))[order], gap, width)
  chosen = jnp.where(chosen < 0, -1, order[chosen])
  front = 1 + r * width + jnp.arange(width)
  there = chosen >= 0
  nodes = nodes.at[front].set(jnp.where(there[:, None], ends[chosen], jnp.inf))
  parent, action = parent.at[front].set(source[chosen]), action.at[front].set(tried[chosen])
  return Tree(nodes, parent, action, front, best, unit)


def way(search: Search, tree: Tree, still: jax.Array) -> jax.Array:
  """[H A]: the actions from the root to the best state, and then those of `still` [H A]."""
  hold, rounds = search.hold, search.horizon // search.hold
  up = lambda node, _: (tree.parent[node], (tree.action[node], node > 0))
  _, (way, real) = jax.lax.scan(up, tree.best.node, None, length=rounds)
  depth = real.sum()
  t = jnp.arange(search.horizon)
  edge = jnp.clip(depth - 1 - t // hold, 0, rounds - 1)
  return jnp.where((t // hold < depth)[:, None], way[edge],
                   jnp.where((t - depth * hold < tree.best.steps)[:, None], tree.best.action, still))


def squared(a: jax.Array, b: jax.Array) -> jax.Array:
  """f32 [N M]: squared distances of a [N D] and b [M D]."""
  return jnp.maximum(jnp.square(a).sum(-1)[:, None] + jnp.square(b).sum(-1) - 2 * a @ b.T, 0)


def nearest(points: jax.Array, nodes: jax.Array) -> jax.Array:
  """f32 [N]: the squared distance from each of points [N D] to the nearest of nodes [M D]; rows of inf count
  not."""
  there = jnp.isfinite(nodes[:, 0])
  return jnp.where(there, squared(points, jnp.where(there[:, None], nodes, 0.0)), jnp.inf).min(-1)


def spread(points: jax.Array, ok: jax.Array, apart: jax.Array, count: int) -> jax.Array:
  """int32 [count]: of points [N D] in order, those that are ok and farther than `apart` (squared) from those
  before; -1 where there are no more."""
  far = squared(points, points) > apart

  def one(state, i):
    ok, chosen, n = state
    take = ok[i] & (n < count)
    chosen = jnp.where(take, chosen.at[jnp.minimum(n, count - 1)].set(i), chosen)
    return (jnp.where(take, ok & far[i], ok), chosen, n + take), None

  state = ok, jnp.full(count, -1, jnp.int32), jnp.int32(0)
  return jax.lax.scan(one, state, jnp.arange(len(points)))[0][1]
