"""Low-shot probe: the linear classifier of jepa/evals/logistic.py, trained on few labels a class.

Shape letters: N examples, D width, K classes, S draws of a labelled subset, n examples in one, F folds.
"""
from collections.abc import Mapping, Sequence
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.evals import classes as C, features as F, logistic, results

VERSION = 1
COLUMNS = (("lowshot", "linear probe", "({labels} labels a class)", "percent"),)
ORDER = 2
LABELS = True
GRID = tuple(float(f"{10 ** (1 - e):.3g}") for e in range(0, 6))        # 10 ... 1e-4


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             labels: int = 10, draws: int = 10, penalty: float | None = None,
             penalties: Sequence[float] = GRID, folds: int = 5, tolerance: float = 1e-4,
             limit: int = 1000) -> list[results.Row]:
  """Test accuracy with `labels` labels a class: mean and sd over `draws` labelled subsets; row "lowshot".

  Draws depend on (seed, labels of train) only, so every row of a table sees the same subsets. Standardisation
  uses all of train without its labels. The penalty of each draw is chosen by stratified cross-validation
  inside its subset (cross-entropy), or is `penalty` where given.

  Raises:
    ValueError: a class with fewer than `labels` labels, or labels=1 without a penalty.
  """
  features = C.labelled(features)
  k, y, test_y = C.classes_of(features)
  logistic.need(np.bincount(y, minlength=k), labels, row=row,
                what=f"the low-shot probe draws {labels} a class")
  if penalty is None and labels < 2:
    raise ValueError("the low-shot probe cannot cross-validate with one label a class; give it "
                     "penalty=, e.g. 0.01")
  x, test_x = C.standardise(features)
  subsets = draw(y, labels=labels, draws=draws, seed=seed)                              # [S n]
  grid = tuple(sorted(penalties, reverse=True)) if penalty is None else (penalty,)
  folds = min(folds, labels) if penalty is None else 0
  # A subset lists its classes one after the other, so counting modulo folds is stratified.
  part = np.arange(subsets.shape[1]) % labels % max(folds, 1)
  width = min(x.shape[1], subsets.shape[1])
  small = draws * (folds + 1) * subsets.shape[1] * (width + k) < 2 ** 26      # 256 MiB
  with threadpool_limits(1, user_api="blas"):       # for eigh on a CPU; see collapse.py
    accuracy, chosen, gradient, iterations = map(np.asarray, _lowshots(
        x, test_x, test_y, subsets, y[subsets], part, k=k, grid=grid, folds=folds, tolerance=tolerance,
        limit=limit, together=draws if small else 1))
  if gradient.max() > tolerance:
    logging.warning("%s: a low-shot probe stopped after %d iterations at gradient norm %.2g > %.2g", row,
                    iterations.max(), gradient.max(), tolerance)
  record = {**(protocol or {}), "version": VERSION, "counts": C.counts(features),
            "standardisation": C.STANDARDISED, "classifier": logistic.CLASSIFIER,
            "settings": {"labels": labels, "draws": draws, "penalty": penalty, "penalties": list(grid),
                         "folds": folds, "tolerance": tolerance, "limit": limit},
            "selection": "fixed penalty" if penalty is not None else
                         "cross-entropy of stratified cross-validation inside each labelled subset",
            "eval_seed": seed,
            "outcome": {"penalties": [grid[i] for i in chosen],
                        "accuracies": [round(float(a), 5) for a in accuracy],
                        "iterations": int(iterations.max()), "gradient_norm": float(gradient.max())}}
  return [results.result(row, "lowshot", accuracy, record)]


def draw(y: np.ndarray, *, labels: int, draws: int, seed: int) -> np.ndarray:
  """Positions int [draws, K*labels] of `labels` examples of every class, without replacement,
  class by class."""
  rng = np.random.default_rng([seed, 2])
  members = [np.flatnonzero(y == c) for c in np.unique(y)]
  return np.stack([np.concatenate([rng.choice(m, labels, replace=False) for m in members])
                   for _ in range(draws)])


@functools.partial(jax.jit, static_argnames=("k", "grid", "folds", "tolerance", "limit", "together"))
def _lowshots(x, test_x, test_y, subsets, labels, part, *, together, **settings):
  """`_lowshot` for every draw, `together` at a time."""
  one = lambda a: _lowshot(x, test_x, test_y, *a, part=part, **settings)
  return jax.lax.map(one, (subsets, labels), batch_size=together)


def _lowshot(x, test_x, test_y, subset, label, *, part, k, grid, folds, tolerance, limit):
  """One draw: every fold and the whole subset for every penalty; (test accuracy, grid position, ...)."""
  with jax.default_matmul_precision("float32"):
    n, d = len(part), x.shape[1]
    xs, hot = x[subset], jax.nn.one_hot(label, k)
    if d > n:
      # The minimiser lies in the span of the examples, so n coordinates give it exactly.
      values, u = jnp.linalg.eigh(xs @ xs.T)
      alive = values > 1e-6 * values[-1]
      root = jnp.sqrt(jnp.where(alive, values, 1))
      z, back = jnp.where(alive, u * root, 0), xs.T @ jnp.where(alive, u / root, 0)
    else:
      z, back = xs, None
    inside = jnp.concatenate([part[None] != jnp.arange(folds)[:, None], jnp.ones((1, n), bool)])     # [F+1 n]
    w = inside / inside.sum(1, keepdims=True).astype(jnp.float32)

    def path(start, penalty):
      many = jax.vmap(functools.partial(logistic.fit, z, hot, tolerance=tolerance, limit=limit),
                      in_axes=(0, None, 0, 0))
      found = many(w, penalty, *start)
      logits = jnp.einsum("nd,fdk->fnk", z, found.weight) + found.bias[:, None]
      out = ~inside
      # By cross-entropy, not accuracy: a hundred right-or-wrong answers tie too often to choose by.
      score = -jnp.where(out, jax.nn.logsumexp(logits, -1) - jnp.sum(logits * hot, -1), 0).sum()
      return (found.weight, found.bias), (score, found.weight[-1], found.bias[-1], found.gradient[-1],
                                          found.iterations[-1])

    start = jnp.zeros((folds + 1, z.shape[1], k)), jnp.zeros((folds + 1, k))
    _, (score, weight, bias, gradient, iterations) = jax.lax.scan(path, start, jnp.asarray(grid, jnp.float32))
    best = jnp.argmax(score)
    weight = weight[best] if back is None else back @ weight[best]
    return logistic.top1(test_x @ weight + bias[best], test_y), best, gradient[best], iterations[best]
