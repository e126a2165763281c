"""Receding horizon: look, plan, execute the first actions of the plan, look again.

A policy answers an observation with its next R actions; a planner is one way to make it, a random walk
another, so that floors and planners run in the same loop. The loop is a scan over plans around a scan over
their actions: a condition "every R steps" would, under vmap, plan at every step.

What the evaluator calls success is given to `episodes` alone, and a policy is a function of the observation,
the goal and its own memory: no planner can see it.

Shape letters: B episodes, T steps of the world, R actions from one look to the next, P = ceil(T / R) looks.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.planning import Limits, Planner, PyTree, checked, clip


class Policy(NamedTuple):
  """What acts."""

  every: int                                          # R
  init: Callable[[jax.Array], PyTree]                 # key -> memory
  # (key, context, goal, memory) -> (actions [R A], energy [], memory); energy is what the policy expects of
  # its actions, inf where it expects nothing
  act: Callable[[jax.Array, PyTree, PyTree, PyTree], tuple[jax.Array, jax.Array, PyTree]]


class Episode(NamedTuple):
  """What happened. Steps after success are frozen: the state stays, `live` is False."""

  states: PyTree          # [T + 1 ...] the first one included
  actions: jax.Array      # [T A] as planned; without effect where not live
  live: jax.Array         # bool [T]: the step was taken
  energies: jax.Array     # [P] of each plan
  done: jax.Array         # bool []: success, at the start or after a step
  memory: PyTree          # the policy's, at the end


def planned(planner: Planner, *, every: int = 1, warm: bool = True) -> Policy:
  """Plans at every look and executes the first `every` actions.

  Args:
    warm: the next search begins at what is left of this plan; otherwise at nothing.

  Raises:
    ValueError: `every` is less than 1 or more than the horizon.
  """
  if not 1 <= every <= planner.horizon:
    raise ValueError(f"every is {every}; of a plan of {planner.horizon} actions 1 to {planner.horizon} can "
                     "be executed")

  def act(key, context, goal, plan):
    plan = planner.plan(key, context, goal, plan)
    return plan.actions[:every], plan.energy, planner.shift(plan, every) if warm else planner.init()

  return Policy(every, lambda key: planner.init(), act)


def random(limits: Limits) -> Policy:
  """The floor: actions uniform in the box, then shortened to `norm`.

  Raises:
    ValueError: infinite limits.
  """
  limits, _ = checked(limits, 1)
  if not jnp.isfinite(jnp.array([limits.low, limits.high])).all():
    raise ValueError(f"a random policy draws uniformly from {limits.low} to {limits.high}; give finite "
                     "limits")

  def act(key, context, goal, memory):
    action = jax.random.uniform(key, limits.low.shape, minval=limits.low, maxval=limits.high)
    return clip(limits, action)[None], jnp.array(jnp.inf), memory

  return Policy(1, lambda key: (), act)


def episodes(policy: Policy, *, step: Callable[[PyTree, jax.Array], PyTree],
             observe: Callable[[PyTree], PyTree], done: Callable[[PyTree, PyTree], jax.Array],
             steps: int) -> Callable[[jax.Array, PyTree, PyTree, PyTree], Episode]:
  """Runs a policy in a world.

  Args:
    step: (state, action [A]) -> state, the world.
    observe: state -> context, what the policy sees: a picture's latent, not the state.
    done: (state, target) -> bool [], what the evaluator calls success.
    steps: T, the steps allowed.

  Returns:
    (key, states, goals, targets) -> Episode, all but the key with a leading B, and so the Episode: pure, to
    be jitted. `goals` are what the policy is told, `targets` what `done` is told, any pytrees.

  Raises:
    ValueError: fewer than 1 step.
  """
  if steps < 1:
    raise ValueError(f"steps is {steps}; an episode has at least 1")

  def execute(target):

    def one(state, turn):
      world, finished = state
      action, allowed = turn
      live = allowed & ~finished
      world = jax.tree.map(lambda old, new: jnp.where(live, new, old), world, step(world, action))
      return (world, finished | live & done(world, target)), (world, live)

    return one

  def episode(key, first, goal, target):
    k_init, k_looks = jax.random.split(key)
    looks = -(-steps // policy.every)

    def look(state, turn):
      world, finished, memory = state
      k, allowed = turn
      actions, energy, memory = policy.act(k, observe(world), goal, memory)
      (world, finished), (worlds, live) = jax.lax.scan(execute(target), (world, finished), (actions, allowed))
      return (world, finished, memory), (worlds, actions, live, energy)

    allowed = jnp.arange(looks * policy.every).reshape(looks, policy.every) < steps
    state = first, jnp.asarray(done(first, target)), policy.init(k_init)
    (_, finished, memory), (worlds, actions, live, energies) = jax.lax.scan(
        look, state, (jax.random.split(k_looks, looks), allowed))
    flat = lambda x: x.reshape(-1, *x.shape[2:])[:steps]
    worlds, actions, live = jax.tree.map(flat, (worlds, actions, live))
    states = jax.tree.map(lambda a, rest: jnp.concatenate([jnp.asarray(a)[None], rest]), first, worlds)
    return Episode(states, actions, live, energies, finished, memory)

  def run(key, states, goals, targets):
    count = len(jax.tree.leaves(states)[0])
    return jax.vmap(episode)(jax.random.split(key, count), states, goals, targets)

  return run
