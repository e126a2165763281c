"""Planning by gradient descent through the world model, with several random starts in parallel (as in
DINO-WM, arXiv 2411.04983, and JEPA-WM, 2512.24497).

  a <- clip(Adam(a, dE/da) + noise xi),   xi ~ N(0, 1)        J times; the best of all starts and steps
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jepa.planning import Energy, Limits, Plan, Planner, checked, clip, evaluate, fresh, shift, within
from jepa.planning.cem import better


def make(*, energy: Energy, limits: Limits, horizon: int, starts: int = 8, steps: int = 100,
         rate: float = 0.1, std: float | Sequence[float] = 1.0, noise: float = 0.0,
         decay: bool = False) -> Planner:
  """Executes the best sequence seen.

  Args:
    starts: sequences optimised in parallel. The first starts from the plan's mean, the others `std` away.
    steps: J.
    rate: step size, in units of an action.
    std: one number or one for each dimension of an action.
    noise: std of what is added to the actions at each step, in units of an action.
    decay: rate and noise fall to zero along a cosine.

  Raises:
    ValueError: numbers that make no sense.
  """
  limits, std = checked(limits, horizon, std, starts=starts, steps=steps)
  within("noise", noise, 0, jnp.inf)
  if not rate > 0:
    raise ValueError(f"rate is {rate}; give a positive number, in units of an action")
  start = fresh(limits, horizon, std)

  def plan(key, context, goal, plan):
    value = lambda actions: energy(context, actions, goal).astype(jnp.float32)
    k_starts, k_noise = jax.random.split(key)
    away = jax.random.normal(k_starts, (starts, *plan.mean.shape)).at[0].set(0.0)
    first = clip(limits, plan.mean + plan.std * away)
    descend = lambda actions, k: descent(value, limits, actions, k, steps=steps, rate=rate, noise=noise,
                                         decay=decay)
    actions = jax.vmap(descend)(first, jax.random.split(k_noise, starts))
    energies = evaluate(energy, context, actions, goal)
    best = energies.argmin()
    return Plan(actions[best], actions[best], start.std, energies[best], ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))


def descent(value, limits: Limits, actions: jax.Array, key: jax.Array, *, steps: int, rate: float,
            noise: float = 0.0, decay: bool = False) -> jax.Array:
  """[H A]: the best of the actions that Adam passes through from `actions` on, the last included.

  A gradient that is not finite counts as zero: momentum alone carries on.
  """
  schedule = optax.cosine_decay_schedule(1.0, steps) if decay else optax.constant_schedule(1.0)
  adam = optax.adam(lambda step: rate * schedule(step))

  def step(state, i):
    actions, moments, seen = state
    energy, slope = jax.value_and_grad(value)(actions)
    sound = jnp.isfinite(energy) & jnp.isfinite(slope).all()
    seen = better(seen, (actions, jnp.where(jnp.isfinite(energy), energy, jnp.inf)))
    update, moments = adam.update(jnp.where(sound, slope, 0.0), moments)
    if noise:
      update += noise * schedule(i) * jax.random.normal(jax.random.fold_in(key, i), actions.shape)
    return (clip(limits, actions + update), moments, seen), None

  state = actions, adam.init(actions), (actions, jnp.inf)
  (actions, _, seen), _ = jax.lax.scan(step, state, jnp.arange(steps))
  energy = value(actions)
  return better(seen, (actions, jnp.where(jnp.isfinite(energy), energy, jnp.inf)))[0]
