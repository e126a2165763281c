"""iCEM (arXiv 2008.06389, algorithm 1): the cross-entropy method with coloured noise and a memory.

  a_n ~ clip(mu + C_beta * sigma),   power spectrum of C_beta along the horizon proportional to f^-beta
  E = the K best of: N_i = max(N gamma^-i, 2 K) samples; a share of the last elites, at first those of the
      last planning call moved forward; in the last iteration the mean
  mu <- m mu + (1 - m) mean(E),   sigma <- m sigma + (1 - m) std(E)

Moved elites end in actions drawn anew; in the very first call, of which nothing is known, that is all of
them. The mean moves forward and repeats its last action.
"""
from collections.abc import Sequence
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.planning import (Energy, Limits, Plan, Planner, checked, clip, evaluate, executed, forward, fresh,
                           within)


class Elites(NamedTuple):
  """What iCEM carries from call to call."""

  actions: jax.Array      # [kept H A]
  known: jax.Array        # int32 []: so many of the H actions were planned


def make(*, energy: Energy, limits: Limits, horizon: int, samples: int = 100, elites: int = 10,
         iterations: int = 3, std: float | Sequence[float] = 0.5, beta: float = 2.0, keep: float = 0.3,
         decay: float = 1.25, momentum: float = 0.1, batch: int = 0) -> Planner:
  """Executes the best sample of the last iteration.

  Args:
    samples, elites: N, of the first iteration, and K.
    iterations: those with another number of samples than the one before are compiled by themselves; choose
      few, as published, or a `decay` of 1.
    std: the first sigma, one number or one for each dimension of an action.
    beta: colour of the noise: 0 white, 1 pink, 2 red; published from 0.25 (fast motion) to 4 (slow).
    keep: share of the elites that stay in the running.
    decay: gamma.
    momentum: m.
    batch: samples evaluated at a time, where memory is short; 0: all.

  Raises:
    ValueError: numbers that make no sense.
  """
  limits, std = checked(limits, horizon, std, samples=samples, elites=elites, iterations=iterations)
  within("keep", keep, 0, 1)
  within("momentum", momentum, 0, 1)
  within("beta", beta, 0, np.inf)
  within("decay", decay, 1, np.inf)
  # 2 K at least, but never more than at first
  sizes = [max(round(samples / decay**i), min(2 * elites, samples)) for i in range(iterations)]
  kept = round(keep * elites)
  within("batch", batch, 0, np.inf)
  start = fresh(limits, horizon, std, Elites(jnp.zeros((kept, horizon, len(limits.low))), jnp.int32(0)))

  def plan(key, context, goal, plan):
    draw = lambda k, n, mean, std: clip(limits, mean + std * coloured(k, (n, *mean.shape), beta))

    def iterate(state, turn, size):
      mean, std, pool, _ = state
      k, last = turn
      actions = jnp.concatenate([draw(k, size, mean, std), pool, mean[None]])
      energies = evaluate(energy, context, actions, goal, batch)
      energies = energies.at[-1].set(jnp.where(last, energies[-1], jnp.inf))      # the mean: only at last
      chosen = jax.lax.top_k(-energies, elites)[1]
      elite = actions[chosen]
      mean = momentum * mean + (1 - momentum) * elite.mean(0)
      std = momentum * std + (1 - momentum) * elite.std(0)
      return (mean, std, elite[:kept], (elite[0], energies[chosen[0]])), None

    k_tail, k_iterations = jax.random.split(key)
    turns = jax.random.split(k_iterations, iterations), jnp.arange(iterations) == iterations - 1
    planned = jnp.arange(horizon)[:, None] < plan.memory.known
    pool = jnp.where(planned, plan.memory.actions, draw(k_tail, kept, plan.mean, plan.std))
    state, i = (plan.mean, plan.std, pool, (plan.mean, jnp.array(jnp.inf))), 0
    for size, same in itertools.groupby(sizes):       # one program for each number of samples
      j = i + len(list(same))
      state, _ = jax.lax.scan(functools.partial(iterate, size=size), state,
                              jax.tree.map(lambda x: x[i:j], turns))
      i = j
    mean, std, pool, (actions, value) = state
    return Plan(actions, mean, std, value, Elites(pool, jnp.int32(horizon)))

  def shift(plan, steps):
    move = lambda actions: forward(actions, executed(steps, horizon), actions[..., -1, :])
    memory = Elites(move(plan.memory.actions), jnp.maximum(plan.memory.known - steps, 0))
    return start._replace(actions=move(plan.actions), mean=move(plan.mean), memory=memory)

  return Planner(horizon, lambda: start, plan, shift)


def coloured(key: jax.Array, shape: tuple[int, int, int], beta: float) -> jax.Array:
  """Gaussian noise of `shape` [N H A] with unit variance and a power spectrum along H proportional to
  f^-beta (Timmer and Koenig, Astronomy and Astrophysics 300, 1995).

  Frequency zero has the power of the lowest other one, 1 / H, and counts in the variance.
  """
  n, h, a = shape
  frequency = np.fft.rfftfreq(h)
  amplitude = np.maximum(frequency, 1 / h) ** (-beta / 2)
  # A real signal's spectrum is real at frequency zero and at the highest of an even length; every other
  # coefficient is complex, with half its power in each part, and stands for two.
  real = (frequency == 0) | (frequency == 0.5)
  power = (np.where(real, 1, 2) * amplitude**2).sum()
  scale = amplitude * h / np.sqrt(power)
  share = np.stack([np.where(real, 1, np.sqrt(0.5)), np.where(real, 0, np.sqrt(0.5))])
  parts = jax.random.normal(key, (2, n, a, len(frequency))) * (scale * share)[:, None, None]
  return jnp.fft.irfft(jax.lax.complex(*parts), n=h).swapaxes(1, 2)
