"""Multinomial logistic regression on frozen, standardised features: what linear, lowshot and segment share.

  minimise over W [D K], b [K]:   sum_n w_n CE(x_n W + b, y_n)  +  penalty / 2 ||W||^2,      sum_n w_n = 1

which is scikit-learn's LogisticRegression with C = 1 / (penalty N). Solved by nonlinear conjugate gradients
(Polak-Ribiere+) with an exact line search: logits are linear along a line, so a search costs N*K numbers and
no product with X; an iteration is two products, X P and X' R, and the path over penalties is warm-started
from strong to weak. Measured on two cores at [3200 x 784], ten classes: the iterations of optax.lbfgs at half
its time, and no function values whose f32 rounding stalls the end.

With all labels the gradients are preconditioned (`Metric`), which leaves the minimiser what it is and takes
fewer iterations: neighbouring pixels are nearly equal, and so are many features. Of 5,000 x 3,072 pixels of
CIFAR-10, the last fit takes 16 instead of 175.

Shape letters: N examples, D width, K classes.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

CLASSIFIER = "multinomial logistic regression, mean cross-entropy + penalty/2 |W|^2"


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


solve = jax.jit(fit, static_argnames=("tolerance", "limit"))


@jax.jit
def gram(x: jax.Array) -> jax.Array:
  """X' X / N [D D] of x [N D]."""
  return jnp.matmul(x.T, x, precision="float32") / len(x)


@jax.jit
def _curvature(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
  """Mean eigenvalue of diag(p) - p p' on the K-1 directions that matter, over examples; 1/K for equal p."""
  p = jax.nn.softmax(jnp.matmul(x, weight, precision="float32") + bias)
  return jnp.mean(1 - jnp.square(p).sum(-1)) / (p.shape[1] - 1)


def metric_at(gram: jax.Array | None, x: jax.Array, weight: jax.Array, bias: jax.Array,
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
def score(x: jax.Array, y: jax.Array, weight: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(accuracy, mean cross-entropy) of a classifier on x [N D], y int32 [N]."""
  logits = jnp.matmul(x, weight, precision="float32") + bias
  own = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], -1)[:, 0]
  return top1(logits, y), jnp.mean(jax.nn.logsumexp(logits, -1) - own)


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of examples whose largest logit is the label's."""
  return jnp.mean(jnp.argmax(logits, -1) == labels)


def need(counts: np.ndarray, least: int, *, row: str, what: str) -> None:
  """Refuses counts of labels [K], by class, that are too small.

  Raises:
    ValueError: fewer than two classes, or one with fewer than `least`; names the row and the class.
  """
  if len(counts) < 2:
    raise ValueError(f"{row}: a probe needs at least two classes with labels in train, found {len(counts)}")
  if counts.min() < least:
    raise ValueError(f"{row}: {what}, but class {counts.argmin()} (counting from 0 in label order) has only "
                     f"{counts.min()} labelled train examples; use more of train, fewer labels a class, "
                     "or leave this evaluator out")
