"""Planning with the states in between as variables, after GRASP (arXiv 2602.00475): all steps of the horizon
are evaluated in parallel, and no gradient passes through more than one of them.

  z_0 = context, z_H = goal; variables are the actions a_0 ... a_{H-1} and the virtual states z_1 ... z_{H-1}
  L = sum_t d(F(sg(z_t), a_t), z_{t+1}) + w sum_t d(F(sg(z_t), a_t), goal)
  a <- clip(Adam(a, dL/da)),   z <- Adam(z, dL/dz) + noise xi,   xi ~ N(0, 1)

`sg` is stop-gradient: the model is differentiated in its action alone. The noise explores and takes the
states off what the actions can reach; so every so often a few steps of Adam on the real objective, d(F(...
F(z_0, a_0) ..., a_{H-1}), goal), follow, and the states are those of that rollout again. A serial refinement
by the same objective ends the search. That is the paper's method as its abstract and its authors' summaries
tell it; the paper's settings are not reproduced here, and Adam, the falling noise and several starts at once
are ours.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jepa.planning import Limits, Plan, Planner, PyTree, checked, clip, evaluate, fresh, shift, within
from jepa.planning.gradient import descent


def make(*, dynamics: Callable[[PyTree, jax.Array], PyTree], distance: Callable[[PyTree, PyTree], jax.Array],
         limits: Limits, horizon: int, starts: int = 8, steps: int = 600, rate: float = 0.003,
         state_rate: float = 0.03, std: float | Sequence[float] = 0.1, noise: float = 0.3,
         goal_weight: float = 0.02, sync: int = 0, sync_steps: int = 5, refine: int = 50,
         refine_rate: float = 0.01) -> Planner:
  """Executes the best of the starts, by the distance from the end of its rollout to the goal; that is the
  plan's energy.

  Args:
    dynamics: F(z, a [A]) -> z. Context and goal are such z: any pytree of arrays, the same for both.
    distance: d(z, z) -> f32 [], smooth, such as a mean square.
    starts: searches in parallel. The first starts from the plan's mean, the others `std` away; all from
      states evenly spaced between context and goal, `noise` away.
    steps: parallel steps in all.
    rate, state_rate: step sizes of actions and states, in units of each.
    noise: std of what is added to the states at each step, in units of a state; falls to zero linearly.
    goal_weight: w.
    sync, sync_steps: serial steps after every so many parallel ones. sync 0: never; around a wall they pull
      the states back to its near side, and the search with them.
    refine, refine_rate: number and size of the serial steps at the end; `refine_rate` also for `sync_steps`.

  Raises:
    ValueError: numbers that make no sense; when planning, a goal of other shapes than the context.
  """
  limits, std = checked(limits, horizon, std, starts=starts, steps=steps, refine=refine)
  for name, value in dict(noise=noise, goal_weight=goal_weight, sync=sync, sync_steps=sync_steps).items():
    within(name, value, 0, jnp.inf)
  for name, value in dict(rate=rate, state_rate=state_rate, refine_rate=refine_rate).items():
    if not value > 0:
      raise ValueError(f"{name} is {value}; give a positive number")
  start = fresh(limits, horizon, std)
  adam = optax.multi_transform({"actions": optax.adam(rate), "states": optax.adam(state_rate)},
                               ("actions", "states"))
  s = Search(dynamics, distance, limits, adam, steps, noise, goal_weight, sync, sync_steps, refine,
             refine_rate)

  def plan(key, context, goal, plan):
    if jax.tree.map(jnp.shape, context) != jax.tree.map(jnp.shape, goal):
      raise ValueError(f"grasp needs a goal of the context's shapes, {jax.tree.map(jnp.shape, context)}, and "
                       f"not {jax.tree.map(jnp.shape, goal)}: the goal is its last state")
    k_starts, k_search = jax.random.split(key)
    away = jax.random.normal(k_starts, (starts, *plan.mean.shape)).at[0].set(0.0)
    actions = clip(limits, plan.mean + plan.std * away)
    one = lambda actions, key: search(s, context, goal, actions, key)
    actions = jax.vmap(one)(actions, jax.random.split(k_search, starts))
    energies = evaluate(lambda z, actions, goal: reached(s, z, actions, goal), context, actions, goal)
    best = energies.argmin()
    return Plan(actions[best], actions[best], start.std, energies[best], ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))


class Search(NamedTuple):
  """Arguments of `make` that a search from one start needs."""

  dynamics: Callable[[PyTree, jax.Array], PyTree]
  distance: Callable[[PyTree, PyTree], jax.Array]
  limits: Limits
  adam: optax.GradientTransformation      # of (actions, states)
  steps: int
  noise: float
  goal_weight: float
  sync: int
  sync_steps: int
  refine: int
  refine_rate: float


def search(s: Search, z: PyTree, goal: PyTree, actions: jax.Array, key: jax.Array) -> jax.Array:
  """The actions [H A] that the search from `actions` ends at."""
  k_first, k_steps, k_refine = jax.random.split(key, 3)
  share = jnp.arange(1, len(actions)) / len(actions)
  line = jax.tree.map(lambda a, b: jax.vmap(lambda s: (1 - s) * a + s * b)(share), z, goal)
  variables = actions, noisy(line, k_first, s.noise)

  def step(state, i):
    variables, moments = state
    slope = jax.grad(loss)(variables, z, goal, s.dynamics, s.distance, s.goal_weight)
    slope = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), slope)
    update, moments = s.adam.update(slope, moments)
    actions, states = optax.apply_updates(variables, update)
    k = jax.random.fold_in(k_steps, i)
    return ((clip(s.limits, actions), noisy(states, k, s.noise * (1 - (i + 1) / s.steps))), moments), None

  def block(state, indices):
    (variables, moments), _ = jax.lax.scan(step, state, indices)
    actions = serial(s, z, goal, variables[0], k_steps, s.sync_steps)
    states = jax.tree.map(lambda x: x[:-1], rollout(s.dynamics, z, actions))
    return ((actions, states), moments), None

  state, indices = (variables, s.adam.init(variables)), jnp.arange(s.steps)
  blocks = s.steps // s.sync if s.sync else 0
  if blocks:
    state, _ = jax.lax.scan(block, state, indices[:blocks * s.sync].reshape(blocks, s.sync))
  ((actions, _), _), _ = jax.lax.scan(step, state, indices[blocks * s.sync:])
  return serial(s, z, goal, actions, k_refine, s.refine)


def serial(s: Search, z: PyTree, goal: PyTree, actions: jax.Array, key: jax.Array, steps: int) -> jax.Array:
  """actions [H A] after so many steps of Adam on the real objective."""
  return descent(lambda a: reached(s, z, a, goal).astype(jnp.float32), s.limits, actions, key, steps=steps,
                 rate=s.refine_rate)


def reached(s: Search, z: PyTree, actions: jax.Array, goal: PyTree) -> jax.Array:
  """f32 []: the distance from where actions [H A] lead to the goal."""
  return s.distance(jax.tree.map(lambda x: x[-1], rollout(s.dynamics, z, actions)), goal)


def rollout(dynamics: Callable[[PyTree, jax.Array], PyTree], z: PyTree, actions: jax.Array) -> PyTree:
  """z_1 ... z_H along a leading axis."""
  return jax.lax.scan(lambda z, a: (dynamics(z, a),) * 2, z, actions)[1]


def loss(variables: tuple[jax.Array, PyTree], z: PyTree, goal: PyTree, dynamics, distance,
         goal_weight: float) -> jax.Array:
  """L of variables (actions [H A], states z_1 ... z_{H-1} along a leading axis)."""
  actions, states = variables
  chain = jax.tree.map(lambda a, s, b: jnp.concatenate([a[None], s, b[None]]), z, states, goal)
  here, there = (jax.tree.map(lambda c: c[part], chain) for part in (slice(-1), slice(1, None)))
  arrived = jax.vmap(dynamics)(jax.lax.stop_gradient(here), actions)
  towards = jax.vmap(distance, (0, None))(arrived, goal)
  return (jax.vmap(distance)(arrived, there) + goal_weight * towards).sum().astype(jnp.float32)


def noisy(tree: PyTree, key: jax.Array, std: float | jax.Array) -> PyTree:
  """Every leaf with Gaussian noise of that std added."""
  leaves, form = jax.tree.flatten(tree)
  keys = jax.random.split(key, max(len(leaves), 1))
  return form.unflatten([x + std * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])
