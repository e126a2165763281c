"""Is the representation collapsing? Statistics of the features of one split, without labels, and what to do.

  rankme            exp(-sum_k p_k log p_k), p_k = s_k / sum(s) + 1e-7, s: singular values of the features,
                    not centred (RankMe, arXiv 2210.02885, eq. 1-2); between 1 and min(N, D)
  effective_rank    the same entropy of p_k = l_k / sum(l), l: eigenvalues of the covariance
                    (Roy and Vetterli, 2007)
  std, std_min      mean and smallest standard deviation of a dimension
  std_relative      sqrt(trace(cov) / mean ||z||^2), in [0, 1]: 0 when every image is one point, at any scale
  covariance        mean squared off-diagonal entry of the covariance (VICReg's term divided by D - 1)
  correlation       mean squared off-diagonal entry of the correlation, over dimensions that vary
  alpha             minus the slope of log l_k against log k, least squares over ranks first..last, 1-based
                    (alpha-ReQ, arXiv 2202.05808): near 1 is healthy, large means few directions carry all

Singular values come from the f64 Gram matrix: good to 1e-8 of the largest, an order below RankMe's 1e-7.
"""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.config import hint
from jepa.evals import features as F, results

VERSION = 1
COLUMNS = (("rankme", "RankMe", "", "number"), ("std", "mean feature", "std", "number"))
ORDER = 6
LABELS = False
EPSILON = 1e-7                      # RankMe's, for f32
SAMPLES = 25_600                    # RankMe's: examples beyond it add time, not accuracy
ALPHA_RANKS = (4, 100)              # ranks fitted: past the leading directions, before the sample's noise

# What counts as collapse. A healthy encoder is far from all of these; an early one may pass through some.
LEVELS = {
    "std": 0.01,                    # below
    "std_relative": 0.02,           # below
    "rank_share": 0.05,             # below; rankme / min(N, D)
    "correlation": 0.5,             # above
    "alpha": 3.0,                   # above
    "variance_ratio": 0.01,         # below; only where the caller adds it, see variance_ratio()
}


def statistics(x: np.ndarray, *, alpha_ranks: tuple[int, int] = ALPHA_RANKS) -> dict[str, float]:
  """All statistics above, of features [N D]; NaN where one is not defined (alpha of fewer than 8 ranks).

  Also "rank_share" = rankme / min(N, D), "alpha_r2" of the fit, and "alpha_first", "alpha_last", its ranks.

  Raises:
    ValueError: not [N D] with N > 1.
  """
  if x.ndim != 2 or len(x) < 2:
    raise ValueError(f"collapse statistics need features [N D] of at least two examples, got {x.shape}")
  x = np.asarray(x, np.float64)
  n, d = x.shape
  mean = x.mean(0)
  rankme = entropy_rank(singular_values(x), EPSILON)
  centred = x - mean
  power = np.mean(np.sum(x * x, 1))
  cov = centred.T @ centred / (n - 1)
  eigenvalues = _eigenvalues(cov if n >= d else centred @ centred.T / (n - 1))
  var = np.diag(cov).copy()
  sd = np.sqrt(var)
  varies = sd > 1e-6 * np.maximum(np.abs(mean), 1e-6)
  v = int(varies.sum())
  corr = cov[np.ix_(varies, varies)] / np.outer(sd[varies], sd[varies])
  alpha, r2, first, last = power_law(eigenvalues, ranks=alpha_ranks)
  return {
      "rankme": rankme, "rank_share": rankme / min(n, d), "effective_rank": entropy_rank(eigenvalues),
      "std": float(sd.mean()), "std_min": float(sd.min()),
      "std_relative": float(np.sqrt(var.sum() * (n - 1) / n / power)) if power > 0 else 0.0,
      "covariance": float((np.sum(cov ** 2) - np.sum(var ** 2)) / (d * (d - 1))) if d > 1 else 0.0,
      "correlation": float((np.sum(corr ** 2) - v) / (v * (v - 1))) if v > 1 else float("nan"),
      "alpha": alpha, "alpha_r2": r2, "alpha_first": float(first), "alpha_last": float(last),
  }


def singular_values(x: np.ndarray) -> np.ndarray:
  """Singular values f64 [min(N, D)] of x [N D], largest first."""
  x = np.asarray(x, np.float64)
  return np.sqrt(_eigenvalues(x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T))


def _eigenvalues(gram: np.ndarray) -> np.ndarray:
  """Of a positive semi-definite matrix, largest first."""
  # OpenBLAS threads wait by spinning: on shared cores, two of them took 11 s for what one does in 0.1 s.
  with threadpool_limits(1, user_api="blas"):
    return np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)


def entropy_rank(values: np.ndarray, epsilon: float = 0.0) -> float:
  """exp of the entropy of values / sum + epsilon; 1 when all values are zero: a point has no more."""
  total = values.sum()
  if not total > 0:
    return 1.0
  p = values / total + epsilon
  p = p[p > 0]
  return float(np.exp(-np.sum(p * np.log(p))))


def power_law(eigenvalues: np.ndarray, *,
              ranks: tuple[int, int] = ALPHA_RANKS) -> tuple[float, float, int, int]:
  """(alpha, r2, first, last): eigenvalue_k ~ k^-alpha over ranks first..last, cut at rounding noise."""
  usable = int(np.sum(eigenvalues > 1e-10 * eigenvalues[0])) if eigenvalues[0] > 0 else 0
  first, last = ranks[0], min(ranks[1], usable)
  if last - first + 1 < 8:
    return float("nan"), float("nan"), first, last
  k = np.log(np.arange(first, last + 1))
  l = np.log(eigenvalues[first - 1:last])
  slope, offset = np.polyfit(k, l, 1)
  spread = np.sum((l - l.mean()) ** 2)
  r2 = 1 - np.sum((l - slope * k - offset) ** 2) / spread if spread > 0 else 1.0
  return float(-slope), float(r2), first, last


def variance_ratio(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Variance of predictions [... D] over that of their targets, both over everything but D; f32 [].

  1 when the predictor explains its targets; near 0 when it says their mean, which is when nothing is learned
  from them.
  """
  def spread(z):
    z = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
    return jnp.mean(jnp.var(z, 0))
  return spread(prediction) / jnp.maximum(spread(target), 1e-12)


def alarms(stats: Mapping[str, float], *, levels: Mapping[str, float] | None = None) -> list[str]:
  """One sentence or two for every statistic past its level: what is collapsing, by how much, what to try.

  Args:
    stats: of `statistics`, and "variance_ratio" where the caller knows it.
    levels: replaces entries of LEVELS; None as a level turns one off.

  Raises:
    ValueError: a level for a statistic that has none.
  """
  for name in levels or {}:
    if name not in LEVELS:
      raise ValueError(f"no alarm level is called {name!r}{hint(name, LEVELS)} Known: {', '.join(LEVELS)}")
  level = {**LEVELS, **(levels or {})}

  def past(name: str, above: bool = False) -> bool:
    value, limit = stats.get(name), level[name]
    if value is None or limit is None:
      return False
    return bool(value > limit if above else value < limit)      # False where the value is NaN

  found = []
  if past("std_relative"):
    found.append(f"relative feature std {stats['std_relative']:.2g} < {level['std_relative']:g}: the "
                 "encoder maps every image to nearly one point. Check that the target receives no "
                 "gradient, raise the weight of the variance or SIGReg term, lower the learning rate, "
                 "or slow the EMA target (momentum nearer 1).")
  elif past("std"):
    found.append(f"feature std {stats['std']:.2g} < {level['std']:g}: the features are shrinking towards "
                 "a constant. Check that the target receives no gradient, normalise the targets "
                 "(LayerNorm), raise the weight of the variance or SIGReg term, or lower the weight "
                 "decay.")
  if past("rank_share"):
    found.append(f"RankMe {stats.get('rankme', float('nan')):.3g} is {stats['rank_share']:.2g} of the "
                 f"dimensions < {level['rank_share']:g}: images differ along a few directions only "
                 "(dimensional collapse). Raise the covariance or SIGReg weight, strengthen views or "
                 "enlarge target blocks so that more has to be predicted, or normalise targets over the "
                 "batch.")
  if past("correlation", above=True):
    found.append(f"mean squared correlation between dimensions {stats['correlation']:.2g} > "
                 f"{level['correlation']:g}: dimensions repeat one another. Raise the covariance, Barlow "
                 "or SIGReg weight, or use a larger batch.")
  if past("alpha", above=True):
    found.append(f"spectrum decays with alpha {stats['alpha']:.2g} > {level['alpha']:g}: the tail of the "
                 "features is dying. Raise the covariance or SIGReg weight, lower the weight decay, or "
                 "train with a larger batch.")
  if past("variance_ratio"):
    found.append(f"predictions vary {stats['variance_ratio']:.2g} times as much as their targets < "
                 f"{level['variance_ratio']:g}: the predictor says the mean target. Check that mask "
                 "positions reach the predictor, raise its learning rate or depth, or make targets less "
                 "noisy (slower EMA).")
  return found


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             samples: int = SAMPLES, alpha_ranks: tuple[int, int] = ALPHA_RANKS) -> list[results.Row]:
  """One row for every statistic of (at most `samples`, seeded) train features, where it is defined."""
  x = features.train_x
  if len(x) > samples:
    x = x[np.sort(np.random.default_rng([seed, 3]).choice(len(x), samples, replace=False))]
  stats = statistics(x, alpha_ranks=alpha_ranks)
  record = {**(protocol or {}), "version": VERSION,
            "counts": {"samples": len(x), "dim": x.shape[1]},
            "standardisation": "none; the covariance is of the raw features", "split": "train",
            "eval_seed": seed,
            "settings": {"epsilon": EPSILON, "samples": samples, "alpha_ranks": list(alpha_ranks)}}
  shown = ("rankme", "rank_share", "effective_rank", "std", "std_min", "std_relative", "covariance",
           "correlation", "alpha")
  fit = {k: stats[k] for k in ("alpha_first", "alpha_last", "alpha_r2") if np.isfinite(stats[k])}
  return [results.result(row, name, stats[name], {**record, "outcome": fit} if name == "alpha" else record)
          for name in shown if np.isfinite(stats[name])]
