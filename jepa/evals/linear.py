"""Linear probe: a linear classifier of frozen features, trained on every label (jepa/evals/logistic.py).

Shape letters: N examples, D width, K classes.
"""
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np

from jepa.evals import classes as C, features as F, logistic, results

VERSION = 1
COLUMNS = (("linear", "linear probe", "(all labels)", "percent"),)
ORDER = 1
LABELS = True
GRID = tuple(float(f"{10 ** (-e / 2):.3g}") for e in range(0, 11))      # 1 ... 1e-5, two a decade
WIDEST = 4096                       # features up to which a D x D metric is worth its inverse


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             penalties: Sequence[float] = GRID, held_out: float = 0.2, tolerance: float = 1e-5,
             limit: int = 2000) -> list[results.Row]:
  """Test accuracy of a linear classifier trained on every label; row "linear".

  The penalty is the one with the best accuracy on a stratified, seeded share `held_out` of train (ties: the
  stronger), walking from strong to weak until two in a row improve neither accuracy nor cross-entropy; then a
  refit on all of train.

  Raises:
    ValueError: fewer than two classes, or a class too small to be split.
  """
  features = C.labelled(features)
  k, y, test_y = C.classes_of(features)
  logistic.need(np.bincount(y, minlength=k), 2, row=row, what="the linear probe holds out a share of train")
  x, test_x = C.standardise(features)
  out = _stratified(y, held_out, np.random.default_rng([seed, 1]))
  inside = np.flatnonzero(~out)
  hot = np.eye(k, dtype=np.float32)[y]

  xi, hi = jnp.asarray(x[inside]), jnp.asarray(hot[inside])
  xo, yo = jnp.asarray(x[out]), jnp.asarray(y[out])
  uniform = jnp.full(len(inside), 1 / len(inside), jnp.float32)
  weight, bias = jnp.zeros((x.shape[1], k)), jnp.zeros(k)
  gram = logistic.gram(xi) if x.shape[1] <= WIDEST else None
  best, best_loss, since, tried = None, np.inf, 0, []
  for penalty in sorted(penalties, reverse=True):
    metric = logistic.metric_at(gram, xi, weight, bias, penalty)
    found = logistic.solve(xi, hi, uniform, jnp.float32(penalty), weight, bias, metric,
                           tolerance=10 * tolerance, limit=limit)
    weight, bias = found.weight, found.bias
    accuracy, loss = map(float, logistic.score(xo, yo, weight, bias))
    tried.append({"penalty": penalty, "accuracy": round(accuracy, 5), "loss": round(loss, 5)})
    better = best is None or accuracy > best[0]
    since = 0 if better or loss < best_loss else since + 1
    best_loss = min(best_loss, loss)
    if better:
      best = (accuracy, penalty, weight, bias)
    if since == 2:
      break
  if best[1] in (min(penalties), max(penalties)) and len(penalties) > 1:
    logging.info("%s: the linear probe chose penalty %g, an end of its grid", row, best[1])

  metric = logistic.metric_at(gram, xi, *best[2:], best[1])
  del xi, hi, xo
  uniform = jnp.full(len(x), 1 / len(x), jnp.float32)
  found = logistic.solve(jnp.asarray(x), jnp.asarray(hot), uniform, jnp.float32(best[1]), *best[2:], metric,
                         tolerance=tolerance, limit=limit)
  gradient, iterations = float(found.gradient), int(found.iterations)
  converged = gradient <= tolerance
  if not converged:
    logging.warning("%s: the linear probe stopped after %d iterations at gradient norm %.2g > %.2g; its "
                    "accuracy may be a little off. Raise `limit` or leave out the weakest penalties.", row,
                    iterations, gradient, tolerance)
  accuracy, _ = logistic.score(jnp.asarray(test_x), jnp.asarray(test_y), found.weight, found.bias)
  record = {**(protocol or {}), "version": VERSION, "counts": C.counts(features),
            "standardisation": C.STANDARDISED, "classifier": logistic.CLASSIFIER,
            "settings": {"penalties": list(penalties), "held_out": held_out, "tolerance": tolerance,
                         "limit": limit},
            "selection": "accuracy on a stratified held-out share of train, ties to the stronger; "
                         "refit on all",
            "eval_seed": seed,
            "outcome": {"penalty": best[1], "held_out_accuracy": best[0], "iterations": iterations,
                        "gradient_norm": gradient, "converged": converged, "path": tried}}
  return [results.result(row, "linear", float(accuracy), record)]


def _stratified(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  """bool [N]: a share of every class, at least one and never all of it."""
  chosen = np.zeros(len(y), bool)
  for c in np.unique(y):
    members = rng.permutation(np.flatnonzero(y == c))
    chosen[members[:min(max(1, round(share * len(members))), len(members) - 1)]] = True
  return chosen
