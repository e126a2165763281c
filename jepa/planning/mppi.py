"""Model predictive path integral control (arXiv 1707.02342, algorithm 2), and what world models made of it:
PLDM (arXiv 2502.14819), TD-MPC2 (2310.16828).

  a_n ~ N(mu, sigma^2) clipped,   S_n = E(a_n) + gamma sum_t mu_t . a_nt / sigma_t^2
  w_n proportional to exp(-(S_n - min S) / lambda),   mu <- sum_n w_n a_n        J times

PLDM: N 500 to 2000, J 1, lambda 0.0025 to 0.005, gamma 0. TD-MPC2 takes part of the samples, the K of lowest
energy, and fits sigma as well: N 512, K 64, J 6, sigma^2 <- sum_n w_n (a_n - mu)^2 with sigma from 0.05 to
2; the "temperature" 0.5 of its code multiplies where lambda divides, so lambda is 2.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jepa.planning import Energy, Limits, Plan, Planner, checked, clip, evaluate, fresh, shift, within


def make(*, energy: Energy, limits: Limits, horizon: int, samples: int = 500, iterations: int = 1,
         temperature: float = 0.005, std: float | Sequence[float] = 1.0, elites: int = 0,
         control: float = 0.0, adapt: bool = False, std_range: Sequence[float] = (0.05, 2.0),
         batch: int = 0) -> Planner:
  """Executes the mean.

  Args:
    samples, iterations: N and J.
    temperature: lambda, in units of the energy.
    std: the first sigma, one number or one for each dimension of an action.
    elites: K; 0: all samples.
    control: gamma, the price of leaving the uncontrolled system, in units of the energy.
    adapt: fits sigma to the weighted samples; otherwise it stays.
    std_range: with `adapt`, the least and the largest sigma.
    batch: samples evaluated at a time, where memory is short; 0: all.

  Raises:
    ValueError: numbers that make no sense.
  """
  elites = elites or samples
  limits, std = checked(limits, horizon, std, samples=samples, elites=elites, iterations=iterations)
  if not temperature > 0:
    raise ValueError(f"temperature is {temperature}; give a positive number, in units of the energy")
  if control and not (std > 0).all():
    raise ValueError(f"control divides by the variance, and std is {std}; give a std above 0 or control 0")
  if not 0 <= std_range[0] <= std_range[1]:
    raise ValueError(f"std_range is {tuple(std_range)}; give (least, largest)")
  within("batch", batch, 0, jnp.inf)
  start = fresh(limits, horizon, std)

  def plan(key, context, goal, plan):

    def iterate(state, k):
      mean, std = state
      actions = clip(limits, mean + std * jax.random.normal(k, (samples, *mean.shape)))
      energies = evaluate(energy, context, actions, goal, batch)
      if control:
        energies += control * (mean * actions / jnp.square(std)).sum((1, 2))
      chosen = jax.lax.top_k(-energies, elites)[1]
      actions, w = actions[chosen], weights(energies[chosen], temperature)[:, None, None]
      mean = (w * actions).sum(0)
      if adapt:
        std = jnp.clip(jnp.sqrt((w * jnp.square(actions - mean)).sum(0)), *std_range)
      return (mean, std), None

    (mean, std), _ = jax.lax.scan(iterate, (plan.mean, plan.std), jax.random.split(key, iterations))
    return Plan(mean, mean, std, evaluate(energy, context, mean[None], goal)[0], ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))


def weights(energies: jax.Array, temperature: float) -> jax.Array:
  """w [N], summing to one; equal where no energy is finite."""
  known = jnp.isfinite(energies)
  least = jnp.where(known, energies, jnp.inf).min()
  excess = jnp.where(known, energies, jnp.inf) - jnp.where(known.any(), least, 0.0)
  return jax.nn.softmax(jnp.where(known.any(), -excess / temperature, 0.0))
