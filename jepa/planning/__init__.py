"""Planning: the sequence of actions that a world model believes in most, as pure functions.

A planner knows an energy and nothing else: no model, no world, no config. It minimises E(context, actions,
goal) over actions within limits, and one planning call is a function from the previous plan to the next. Some
know single steps instead: dynamics(z, a) and distance(z, goal).

`jepa/planning/<name>.py` defines `make(*, ...) -> Planner`; a dotted name is a file in another repository.
The other files of this folder act with planners in worlds.

Shape letters: H horizon, A width of an action, N samples, K elites. Everything is f32. A non-finite energy
counts as the worst.
"""
from collections.abc import Callable, Sequence
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa import config

PyTree = Any
# (context, actions [H A], goal) -> f32 []: lower is better. Pure; planners vmap it over samples. Context and
# goal are any pytrees, such as latents.
Energy = Callable[[PyTree, jax.Array, PyTree], jax.Array]


class Limits(NamedTuple):
  """What an action may be: low <= action <= high, and no longer than `norm`."""

  low: np.ndarray | Sequence[float]           # f32 [A]
  high: np.ndarray | Sequence[float]          # f32 [A]
  norm: float = 0.0                           # largest Euclidean length of one action; 0: none
  blocks: int = 1                             # so many actions in a row are one of A numbers (frameskip);
                                              # `norm` bounds each of them


class Plan(NamedTuple):
  """What one planning call leaves behind."""

  actions: jax.Array      # [H A] to execute: the mean or the best seen, as the planner says
  mean: jax.Array         # [H A] where the next search begins
  std: jax.Array          # [H A] how far it looks
  energy: jax.Array       # []    of `actions`; inf where they were not evaluated: before a first plan,
                          #       after a shift
  memory: PyTree          # what only this planner carries from call to call; () for most


class Planner(NamedTuple):
  """A planner of `horizon` actions."""

  horizon: int
  init: Callable[[], Plan]                                            # nothing known
  plan: Callable[[jax.Array, PyTree, PyTree, Plan], Plan]             # (key, context, goal, plan): one call
  shift: Callable[[Plan, int], Plan]                                  # what is left once so many of its
                                                                      # actions were executed


def make(name: str, /, **args) -> Planner:
  """The planner of jepa/planning/<name>.py: `make` of that file called with `args`. Every one of them takes
  `limits` and `horizon`, and an `energy`, or where it is `stepwise` `dynamics` and `distance` in its place.

  Raises:
    ValueError: an unknown name or argument, one that is missing, or a number that makes no sense.
  """
  factory = config.module(name, __name__).make
  return config.call(factory, factory.__module__, **args)


def stepwise(name: str) -> bool:
  """Whether a planner goes from state to state, and so takes `dynamics` and no energy."""
  return "dynamics" in inspect.signature(config.module(name, __name__).make).parameters


# ---- what the planners share ----

def clip(limits: Limits, actions: jax.Array) -> jax.Array:
  """actions [... A] within the limits: into the box, then shortened to `norm`."""
  actions = jnp.clip(actions, limits.low, limits.high)
  if limits.norm:
    each = actions.reshape(*actions.shape[:-1], limits.blocks, -1)
    length = jnp.linalg.norm(each, axis=-1, keepdims=True)
    actions = (each * (limits.norm / jnp.maximum(length, limits.norm))).reshape(actions.shape)
  return actions


def evaluate(energy: Energy, context: PyTree, actions: jax.Array, goal: PyTree, batch: int = 0) -> jax.Array:
  """f32 [N]: energies of actions [N H A], inf where they are not finite; `batch` at a time, 0: all."""
  of = lambda a: energy(context, a, goal).astype(jnp.float32)
  # lax.map would run more pieces than there are samples
  energies = jax.lax.map(of, actions, batch_size=batch) if 0 < batch < len(actions) else jax.vmap(of)(actions)
  return jnp.where(jnp.isfinite(energies), energies, jnp.inf)


def fresh(limits: Limits, horizon: int, std: np.ndarray, memory: PyTree = ()) -> Plan:
  """The plan of which nothing is known: no motion, or the motion nearest to none that the limits allow."""
  mean = jnp.broadcast_to(clip(limits, jnp.zeros(len(limits.low))), (horizon, len(limits.low)))
  return Plan(mean, mean, jnp.broadcast_to(std, mean.shape), jnp.array(jnp.inf, jnp.float32), memory)


def forward(actions: jax.Array, steps: int, fill: jax.Array) -> jax.Array:
  """actions [... H A] without the first `steps`, and `fill` [... A] for as many at the end."""
  tail = jnp.broadcast_to(fill[..., None, :], (*actions.shape[:-2], steps, actions.shape[-1]))
  return jnp.concatenate([actions[..., steps:, :], tail], axis=-2)


def shift(start: Plan, plan: Plan, steps: int) -> Plan:
  """`plan` after `steps` of its actions: the rest moved forward, its tail and its std those of `start`, the
  planner's first plan (MPPI, arXiv 1707.02342, algorithm 2; TD-MPC2, arXiv 2310.16828)."""
  move = lambda actions: forward(actions, executed(steps, len(actions)), start.mean[-1])
  return start._replace(actions=move(plan.actions), mean=move(plan.mean), memory=plan.memory)


def executed(steps: int, horizon: int) -> int:
  """`steps`, if a plan has as many.

  Raises:
    ValueError: it has not.
  """
  if not 0 <= steps <= horizon:
    raise ValueError(f"{steps} actions cannot have been executed of a plan of {horizon}; plan further ahead "
                     "or replan earlier")
  return steps


# ---- arguments ----

def checked(limits: Limits, horizon: int, std: float | Sequence[float] = 0.0,
            **counts: int) -> tuple[Limits, np.ndarray]:
  """The limits and a std [A] as f32 arrays, once they, the horizon and `counts` (numbers of something, by
  name) make sense.

  Raises:
    ValueError: says which does not, and what to change.
  """
  for name, count in dict(horizon=horizon, blocks=limits.blocks, **counts).items():
    if count != int(count) or count < 1:
      raise ValueError(f"{name} is {count}; give a whole number of at least 1")
  if counts.get("elites", 0) > counts.get("samples", np.inf):
    raise ValueError(f"{counts['elites']} elites cannot be chosen from {counts['samples']} samples; lower "
                     "elites or raise samples")
  low, high = np.asarray(limits.low, np.float32), np.asarray(limits.high, np.float32)
  if low.ndim != 1 or low.shape != high.shape:
    raise ValueError(f"limits have a low of shape {low.shape} and a high of shape {high.shape}; "
                     "give one number for each dimension of an action in both")
  if len(low) % limits.blocks:
    raise ValueError(f"limits of {len(low)} numbers do not split into {limits.blocks} blocks; give low and "
                     "high of every action of a block, one after the other")
  if not (low <= high).all():
    raise ValueError(f"limits have low {low} above high {high}; exchange them")
  if limits.norm < 0 or limits.norm and not ((low <= 0) & (high >= 0)).all():
    raise ValueError(f"limits have norm {limits.norm} with low {low} and high {high}; a norm is positive (0: "
                     "none) and needs a box around zero, since long actions are shortened towards it")
  std = np.asarray(std, np.float32)
  if std.shape not in ((), low.shape) or not (std >= 0).all():
    raise ValueError(f"std is {std}; give one number, or one for each of the {len(low)} dimensions of an "
                     "action, none of them negative")
  return Limits(low, high, float(limits.norm), limits.blocks), np.broadcast_to(std, low.shape)


def within(name: str, value: float, low: float, high: float) -> None:
  """Nothing, if low <= value <= high.

  Raises:
    ValueError: it is not so.
  """
  if not low <= value <= high:
    raise ValueError(f"{name} is {value}; choose it from {low:g} to {high:g}")
