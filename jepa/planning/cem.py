"""The cross-entropy method (de Boer et al., Annals of Operations Research 134, 2005, section 5), as world
models plan with it: V-JEPA 2-AC (arXiv 2506.09985), DINO-WM (2411.04983), LeWM.

  a_n ~ N(mu, sigma^2) clipped,   E = the K samples of lowest energy
  mu <- m mu + (1 - m) mean(E),   sigma <- m' sigma + (1 - m') std(E)        J times

Published settings, as samples / elites / iterations / horizon: V-JEPA 2-AC 400 / 10 / 10 / 2 with momenta
0.15, std 0.05 for the hand and 1 for the gripper (std 0 keeps a dimension still); DINO-WM and LeWM
300 / 30 / 30 / 5 with std 1.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jepa.planning import Energy, Limits, Plan, Planner, checked, clip, evaluate, fresh, shift, within


def make(*, energy: Energy, limits: Limits, horizon: int, samples: int = 300, elites: int = 30,
         iterations: int = 30, std: float | Sequence[float] = 1.0, momentum: float = 0.0,
         momentum_std: float = 0.0, unbiased: bool = False, best: bool = False, batch: int = 0) -> Planner:
  """Executes the mean, as published.

  Args:
    samples, elites, iterations: N, K and J.
    std: the first sigma, one number or one for each dimension of an action.
    momentum, momentum_std: m and m', what is kept of the last mean and std.
    unbiased: std(E) over K - 1, as torch.std has it, not the maximum-likelihood K: sigma shrinks less.
    best: executes the best sample seen, not the mean.
    batch: samples evaluated at a time, where memory is short; 0: all.

  Raises:
    ValueError: numbers that make no sense.
  """
  limits, std = checked(limits, horizon, std, samples=samples, elites=elites, iterations=iterations)
  if unbiased and elites < 2:
    raise ValueError("the unbiased std of 1 elite is not defined; raise elites or set unbiased to False")
  within("momentum", momentum, 0, 1)
  within("momentum_std", momentum_std, 0, 1)
  within("batch", batch, 0, jnp.inf)
  start = fresh(limits, horizon, std)

  def plan(key, context, goal, plan):

    def iterate(state, k):
      mean, std, seen = state
      actions = clip(limits, mean + std * jax.random.normal(k, (samples, *mean.shape)))
      energies = evaluate(energy, context, actions, goal, batch)
      chosen = jax.lax.top_k(-energies, elites)[1]
      seen = better(seen, (actions[chosen[0]], energies[chosen[0]]))
      mean_elite, std_elite = actions[chosen].mean(0), actions[chosen].std(0, ddof=int(unbiased))
      mean = momentum * mean + (1 - momentum) * mean_elite
      std = momentum_std * std + (1 - momentum_std) * std_elite
      return (mean, std, seen), None

    state = plan.mean, plan.std, (plan.mean, jnp.inf)
    (mean, std, seen), _ = jax.lax.scan(iterate, state, jax.random.split(key, iterations))
    last = mean, evaluate(energy, context, mean[None], goal)[0]
    actions, value = better(last, seen) if best else last
    return Plan(actions, mean, std, value, ())

  return Planner(horizon, lambda: start, plan, lambda plan, steps: shift(start, plan, steps))


def better(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Of two (actions, energy), the one of lower energy; the first where they are equal."""
  return jax.tree.map(lambda x, y: jnp.where(b[1] < a[1], y, x), a, b)
