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


class Running(NamedTuple):
  """An episode under way."""

  state: PyTree           # of the world
  finished: jax.Array     # bool []: it has succeeded; nothing moves any more
  memory: PyTree          # the policy's


class Turn(NamedTuple):
  """What followed one look."""

  states: PyTree          # [R ...] after each action
  actions: jax.Array      # [R A]
  live: jax.Array         # bool [R]
  energy: jax.Array       # []


def begin(policy: Policy, *, done: Callable[[PyTree, PyTree], jax.Array]) -> Callable[..., Running]:
  """(key, state, target) -> the episode before its first look. Arguments as of `episodes`."""
  return lambda key, state, target: Running(state, jnp.asarray(done(state, target)), policy.init(key))


def look(policy: Policy, *, step: Callable[[PyTree, jax.Array], PyTree], observe: Callable[[PyTree], PyTree],
         done: Callable[[PyTree, PyTree], jax.Array]) -> Callable[..., tuple[Running, Turn]]:
  """(key, running, goal, target, allowed bool [R]) -> (running, turn): looks once and executes what the
  policy answers, as far as it is allowed. Arguments as of `episodes`."""

  def act(key, running, goal, target, allowed):
    actions, energy, memory = policy.act(key, observe(running.state), goal, running.memory)

    def one(carry, turn):
      world, finished = carry
      action, may = turn
      live = may & ~finished
      world = jax.tree.map(lambda old, new: jnp.where(live, new, old), world, step(world, action))
      return (world, finished | live & done(world, target)), (world, live)

    first = running.state, running.finished
    (world, finished), (worlds, live) = jax.lax.scan(one, first, (actions, allowed))
    return Running(world, finished, memory), Turn(worlds, actions, live, energy)

  return act


def schedule(policy: Policy, steps: int) -> jax.Array:
  """bool [P R]: which actions of each look are within `steps`.

  Raises:
    ValueError: fewer than 1 step.
  """
  if steps < 1:
    raise ValueError(f"steps is {steps}; an episode has at least 1")
  looks = -(-steps // policy.every)
  return jnp.arange(looks * policy.every).reshape(looks, policy.every) < steps


def episodes(policy: Policy, *, step: Callable[[PyTree, jax.Array], PyTree],
             observe: Callable[[PyTree], PyTree], done: Callable[[PyTree, PyTree], jax.Array],
             steps: int) -> Callable[[jax.Array, PyTree, PyTree, PyTree], Episode]:
  """Runs a policy in a world, whole episodes in one program; jepa/planning/acting.py takes turns instead, and
  fills the place of an episode that has succeeded.

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
  allowed = schedule(policy, steps)
  start, turn = begin(policy, done=done), look(policy, step=step, observe=observe, done=done)

  def episode(key, first, goal, target):
    k_init, k_looks = jax.random.split(key)
    looks = jax.random.split(k_looks, len(allowed)), allowed
    running, turns = jax.lax.scan(lambda running, x: turn(x[0], running, goal, target, x[1]),
                                  start(k_init, first, target), looks)
    flat = lambda x: x.reshape(-1, *x.shape[2:])[:steps]
    states = jax.tree.map(lambda a, rest: jnp.concatenate([jnp.asarray(a)[None], flat(rest)]), first,
                          turns.states)
    return Episode(states, flat(turns.actions), flat(turns.live), turns.energy, running.finished,
                   running.memory)

  def run(key, states, goals, targets):
    count = len(jax.tree.leaves(states)[0])
    return jax.vmap(episode)(jax.random.split(key, count), states, goals, targets)

  return run
