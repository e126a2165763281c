"""Random shooting (arXiv 1708.02596): the best of N action sequences.

  a_1 ... a_N ~ uniform within the limits,   a = argmin_n E(a_n)

It remembers nothing, so a warm start is a fresh start: the floor under every planner that learns from its
samples.
"""
import math

import jax
import numpy as np

from jepa.planning import Energy, Limits, Plan, Planner, checked, clip, evaluate, fresh, shift, within


def make(*, energy: Energy, limits: Limits, horizon: int, samples: int = 1000, batch: int = 0) -> Planner:
  """Executes the best sample.

  Args:
    limits: finite, since samples are uniform in the box (and then shortened to `norm`).
    batch: samples evaluated at a time, where memory is short; 0: all.

  Raises:
    ValueError: numbers that make no sense.
  """
  limits, _ = checked(limits, horizon, samples=samples)
  if not np.isfinite([limits.low, limits.high]).all():
    raise ValueError(f"shooting draws uniformly from {limits.low} to {limits.high}; give finite limits")
  within("batch", batch, 0, np.inf)
  start = fresh(limits, horizon, (limits.high - limits.low) / math.sqrt(12))

  def plan(key, context, goal, plan):
    actions = clip(limits, jax.random.uniform(key, (samples, *plan.mean.shape), minval=limits.low,
                                              maxval=limits.high))
    energies = evaluate(energy, context, actions, goal, batch)
    best = energies.argmin()
    return Plan(actions[best], actions[best], start.std, energies[best], ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))
