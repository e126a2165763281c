"""Linear probes: multinomial logistic regression on frozen, standardised features, with all labels or few.

  minimise over W [D K], b [K]:   sum_n w_n CE(x_n W + b, y_n)  +  penalty / 2 ||W||^2,      sum_n w_n = 1

which is scikit-learn's LogisticRegression with C = 1 / (penalty N). Solved by nonlinear conjugate gradients
(Polak-Ribiere+) with an exact line search: logits are linear along a line, so a search costs N*K numbers and
no product with X; an iteration is two products, X P and X' R, and the path over penalties is warm-started
from strong to weak. Measured on two cores at [3200 x 784], ten classes: the iterations of optax.lbfgs at half
its time, and no function values whose f32 rounding stalls the end.

With all labels the gradients are preconditioned (`Metric`), which leaves the minimiser what it is and takes
fewer iterations: neighbouring pixels are nearly equal, and so are many features. Of 5,000 x 3,072 pixels of
CIFAR-10, the last fit takes 16 instead of 175.

Shape letters: N examples, D width, K classes, S draws of a labelled subset, F folds, G penalties in the grid.
"""
from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.evals import features as F

CLASSIFIER = "multinomial logistic regression, mean cross-entropy + penalty/2 |W|^2"
VERSION = {"linear": 1, "lowshot": 1}
GRID = tuple(float(f"{10 ** (-e / 2):.3g}") for e in range(0, 11))      # 1 ... 1e-5, two a decade
WIDEST = 4096                       # features up to which a D x D metric is worth its inverse
GRID_LOWSHOT = tuple(float(f"{10 ** (1 - e):.3g}") for e in range(0, 6))     # 10 ... 1e-4


class Fit(NamedTuple):
  weight: jax.Array                 # [D K]
  bias: jax.Array                   # [K]
  iterations: jax.Array             # int32 []
  gradient: jax.Array               # Euclidean norm of the gradient at the end


class Metric(NamedTuple):
  """An approximate inverse of the Hessian: curvature c on average over examples and classes gives
  (c X' diag(w) X + penalty)^-1 for the weight of every class and 1/c for its bias.
  """

  weight: jax.Array                 # [D D]
  bias: jax.Array                   # []


def _dot(a: tuple, b: tuple) -> jax.Array:
  return sum(jnp.vdot(u, v) for u, v in zip(a, b))


def _line_minimum(logits: jax.Array, slope: jax.Array, hot: jax.Array, w: jax.Array, linear: jax.Array,
                  quadratic: jax.Array, rounds: int = 5) -> jax.Array:
  """argmin over t of sum w CE(logits + t slope) + linear t + quadratic t^2 / 2: Newton, kept in a bracket."""
  def step(_, carry):
    t, low, high = carry
    p = jax.nn.softmax(logits + t * slope)
    mean = (p * slope).sum(-1)
    d1 = jnp.sum(w * (mean - (hot * slope).sum(-1))) + linear + t * quadratic
    d2 = jnp.sum(w * ((p * slope ** 2).sum(-1) - mean ** 2)) + quadratic
    low, high = jnp.where(d1 < 0, t, low), jnp.where(d1 < 0, high, t)
    new = t - d1 / jnp.maximum(d2, 1e-30)
    beyond = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * low + 1e-3)
    return jnp.where((new > low) & (new < high), new, beyond), low, high
  return jax.lax.fori_loop(0, rounds, step, (jnp.float32(0), jnp.float32(0), jnp.float32(jnp.inf)))[0]


def fit(x: jax.Array, hot: jax.Array, w: jax.Array, penalty: jax.Array, weight: jax.Array, bias: jax.Array,
        metric: Metric | None = None, *, tolerance: float = 1e-4, limit: int = 1000) -> Fit:
  """The minimiser of the objective above. Pure, jittable, vmappable.

  Args:
    x: f32 [N D]. hot: one-hot labels f32 [N K]. w: weights of the examples f32 [N], summing to 1
      (0: left out).
    penalty: f32 [], > 0. weight [D K], bias [K]: where to start.
    metric: preconditions the gradient; None: nothing does.
    tolerance: on the gradient's Euclidean norm. limit: most iterations.
  """
  def gradient(weight, logits):
    r = w[:, None] * (jax.nn.softmax(logits) - hot)
    return x.T @ r + penalty * weight, r.sum(0)

  def uphill(g):
    return g if metric is None else (metric.weight @ g[0], metric.bias * g[1])

  def unfinished(c):
    return (c[0] < limit) & (_dot(c[3], c[3]) > tolerance ** 2)

  def step(c):
    i, at, logits, g, p, size = c
    slope = x @ p[0] + p[1]
    t = _line_minimum(logits, slope, hot, w, penalty * jnp.vdot(at[0], p[0]), penalty * jnp.vdot(p[0], p[0]))
    at = jax.tree.map(lambda a, b: a + t * b, at, p)
    # Rounding of the running logits would end up in the gradient, so they are recomputed now and then.
    logits = jax.lax.cond(i % 50 == 49, lambda: x @ at[0] + at[1], lambda: logits + t * slope)
    new = gradient(at[0], logits)
    up = uphill(new)
    new_size = _dot(new, up)
    beta = jnp.maximum(0, (new_size - _dot(up, g)) / size)
    p = jax.tree.map(lambda a, b: beta * b - a, up, p)
    downhill = _dot(p, new) < 0
    return i + 1, at, logits, new, jax.tree.map(lambda a, b: jnp.where(downhill, a, -b), p, up), new_size

  with jax.default_matmul_precision("float32"):     # TF32 and bf16 products have no gradient of 1e-4 to find
    at, logits = (weight, bias), x @ weight + bias
    g = gradient(weight, logits)
    up = uphill(g)
    start = jnp.int32(0), at, logits, g, jax.tree.map(jnp.negative, up), _dot(g, up)
    i, at, _, g, *_ = jax.lax.while_loop(unfinished, step, start)
  return Fit(*at, i, jnp.sqrt(_dot(g, g)))


_fit = jax.jit(fit, static_argnames=("tolerance", "limit"))


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
  return jnp.matmul(x.T, x, precision="float32") / len(x)


@jax.jit
def _curvature(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
  """Mean eigenvalue of diag(p) - p p' on the K-1 directions that matter, over examples; 1/K for equal p."""
  p = jax.nn.softmax(jnp.matmul(x, weight, precision="float32") + bias)
  return jnp.mean(1 - jnp.square(p).sum(-1)) / (p.shape[1] - 1)


def _metric(gram: jax.Array | None, x: jax.Array, weight: jax.Array, bias: jax.Array,
            penalty: float) -> Metric | None:
  """The metric of gram = X' X / N [D D], at a classifier; None where there is no gram."""
  if gram is None:
    return None
  with threadpool_limits(1, user_api="blas"):       # for Cholesky on a CPU; see collapse.py
    return jax.block_until_ready(_inverse(gram, _curvature(x, weight, bias), penalty))


@jax.jit
def _inverse(gram: jax.Array, curvature: jax.Array, penalty: jax.Array) -> Metric:
  with jax.default_matmul_precision("float32"):
    c, one = jnp.maximum(curvature, 1e-6), jnp.eye(len(gram))
    # A ridge no smaller than this share of the largest eigenvalue (which is at most a row's sum) keeps the
    # factor exact enough in f32; a metric need not be the very inverse.
    ridge = jnp.maximum(penalty, 1e-5 * c * jnp.abs(gram).sum(1).max())
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(c * gram + ridge * one), True), one)
    good = jnp.isfinite(inverse).all()
    return Metric(jnp.where(good, (inverse + inverse.T) / 2, one), jnp.where(good, 1 / c, 1))


@jax.jit
def _held_out(x: jax.Array, y: jax.Array, weight: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(accuracy, mean cross-entropy)."""
  logits = jnp.matmul(x, weight, precision="float32") + bias
  own = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], -1)[:, 0]
  return F.top1(logits, y), jnp.mean(jax.nn.logsumexp(logits, -1) - own)


def probe(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
          penalties: Sequence[float] = GRID, held_out: float = 0.2, tolerance: float = 1e-5,
          limit: int = 2000) -> list[F.Row]:
  """Test accuracy of a linear classifier trained on every label; row "linear".

  The penalty is the one with the best accuracy on a stratified, seeded share `held_out` of train (ties: the
  stronger), walking from strong to weak until two in a row improve neither accuracy nor cross-entropy; then a
  refit on all of train.

  Raises:
    ValueError: fewer than two classes, or a class too small to be split.
  """
  features = F.labelled(features)
  k, y, test_y = F.classes_of(features)
  _need(np.bincount(y, minlength=k), 2, row=row, what="the linear probe holds out a share of train")
  x, test_x = F.standardise(features)
  out = _stratified(y, held_out, np.random.default_rng([seed, 1]))
  inside = np.flatnonzero(~out)
  hot = np.eye(k, dtype=np.float32)[y]

  xi, hi = jnp.asarray(x[inside]), jnp.asarray(hot[inside])
  xo, yo = jnp.asarray(x[out]), jnp.asarray(y[out])
  uniform = jnp.full(len(inside), 1 / len(inside), jnp.float32)
  weight, bias = jnp.zeros((x.shape[1], k)), jnp.zeros(k)
  gram = _gram(xi) if x.shape[1] <= WIDEST else None
  best, best_loss, since, tried = None, np.inf, 0, []
  for penalty in sorted(penalties, reverse=True):
    metric = _metric(gram, xi, weight, bias, penalty)
    found = _fit(xi, hi, uniform, jnp.float32(penalty), weight, bias, metric, tolerance=10 * tolerance,
                 limit=limit)
    weight, bias = found.weight, found.bias
    accuracy, loss = map(float, _held_out(xo, yo, weight, bias))
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

  metric = _metric(gram, xi, *best[2:], best[1])
  del xi, hi, xo
  uniform = jnp.full(len(x), 1 / len(x), jnp.float32)
  found = _fit(jnp.asarray(x), jnp.asarray(hot), uniform, jnp.float32(best[1]), *best[2:], metric,
               tolerance=tolerance, limit=limit)
  gradient, iterations = float(found.gradient), int(found.iterations)
  converged = gradient <= tolerance
  if not converged:
    logging.warning("%s: the linear probe stopped after %d iterations at gradient norm %.2g > %.2g; its "
                    "accuracy may be a little off. Raise `limit` or leave out the weakest penalties.", row,
                    iterations, gradient, tolerance)
  accuracy, _ = _held_out(jnp.asarray(test_x), jnp.asarray(test_y), found.weight, found.bias)
  record = {**(protocol or {}), "evaluator": "linear", "version": VERSION["linear"],
            "counts": F.counts(features), "standardisation": F.STANDARDISED, "classifier": CLASSIFIER,
            "settings": {"penalties": list(penalties), "held_out": held_out, "tolerance": tolerance,
                         "limit": limit},
            "selection": "accuracy on a stratified held-out share of train, ties to the stronger; "
                         "refit on all",
            "eval_seed": seed,
            "outcome": {"penalty": best[1], "held_out_accuracy": best[0], "iterations": iterations,
                        "gradient_norm": gradient, "converged": converged, "path": tried}}
  return [F.result(row, "linear", float(accuracy), record)]


def lowshot(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
            labels: int = 10, draws: int = 10, penalty: float | None = None,
            penalties: Sequence[float] = GRID_LOWSHOT, folds: int = 5, tolerance: float = 1e-4,
            limit: int = 1000) -> list[F.Row]:
  """Test accuracy with `labels` labels a class: mean and sd over `draws` labelled subsets; row "lowshot".

  Draws depend on (seed, labels of train) only, so every row of a table sees the same subsets. Standardisation
  uses all of train without its labels. The penalty of each draw is chosen by stratified cross-validation
  inside its subset (cross-entropy), or is `penalty` where given.

  Raises:
    ValueError: a class with fewer than `labels` labels, or labels=1 without a penalty.
  """
  features = F.labelled(features)
  k, y, test_y = F.classes_of(features)
  _need(np.bincount(y, minlength=k), labels, row=row, what=f"the low-shot probe draws {labels} a class")
  if penalty is None and labels < 2:
    raise ValueError("the low-shot probe cannot cross-validate with one label a class; give it "
                     "penalty=, e.g. 0.01")
  x, test_x = F.standardise(features)
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
  record = {**(protocol or {}), "evaluator": "lowshot", "version": VERSION["lowshot"],
            "counts": F.counts(features), "standardisation": F.STANDARDISED, "classifier": CLASSIFIER,
            "settings": {"labels": labels, "draws": draws, "penalty": penalty, "penalties": list(grid),
                         "folds": folds, "tolerance": tolerance, "limit": limit},
            "selection": "fixed penalty" if penalty is not None else
                         "cross-entropy of stratified cross-validation inside each labelled subset",
            "eval_seed": seed,
            "outcome": {"penalties": [grid[i] for i in chosen],
                        "accuracies": [round(float(a), 5) for a in accuracy],
                        "iterations": int(iterations.max()), "gradient_norm": float(gradient.max())}}
  return [F.result(row, "lowshot", accuracy, record)]


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
      many = jax.vmap(functools.partial(fit, z, hot, tolerance=tolerance, limit=limit),
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
    return F.top1(test_x @ weight + bias[best], test_y), best, gradient[best], iterations[best]


def _stratified(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  """bool [N]: a share of every class, at least one and never all of it."""
  chosen = np.zeros(len(y), bool)
  for c in np.unique(y):
    members = rng.permutation(np.flatnonzero(y == c))
    chosen[members[:min(max(1, round(share * len(members))), len(members) - 1)]] = True
  return chosen


def _need(counts: np.ndarray, least: int, *, row: str, what: str) -> None:
  if len(counts) < 2:
    raise ValueError(f"{row}: a probe needs at least two classes with labels in train, found {len(counts)}")
  if counts.min() < least:
    raise ValueError(f"{row}: {what}, but class {counts.argmin()} (counting from 0 in label order) has only "
                     f"{counts.min()} labelled train examples; use more of train, fewer labels a class, "
                     "or leave this evaluator out")
