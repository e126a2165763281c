"""Every loss against its equation written again in NumPy, in f64 and in loops; what the equations promise;
defects that the comparison must see."""
import functools
import inspect
import math
import statistics
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from jepa.losses import clustering, contrastive, prediction, reconstruction, redundancy, sigreg

KEY = jax.random.key(0)
B, D, N, K = 32, 6, 5, 7                 # images, channels, tokens, prototypes
LARGEST = {}


# ---- the equations, one term at a time ----

def unit_(x):
  return x / math.sqrt(sum(c * c for c in x))


def softmax_(x):
  e = [math.exp(c - max(x)) for c in x]
  return [c / sum(e) for c in e]


def log_softmax_(x):
  return [math.log(p) for p in softmax_(x)]


def margin_(a, b, margin=1.0):
  attract, repel = [], []
  for i in range(len(a)):
    for j in range(len(b)):
      distance = math.sqrt(sum((a[i] - b[j]) ** 2))
      (attract if i == j else repel).append(distance**2 / 2 if i == j else max(0, margin - distance) ** 2 / 2)
  return sum(attract) / len(attract), sum(repel) / len(repel)


def nt_xent_(a, b, temperature=0.1):
  z = [unit_(x) for x in [*a, *b]]
  n, total = len(a), 0.0
  for i in range(2 * n):
    e = [math.exp(z[i] @ z[j] / temperature) for j in range(2 * n)]
    total -= math.log(e[(i + n) % (2 * n)] / (sum(e) - e[i]))
  return total / (2 * n)


def info_nce_(q, k, temperature=0.2, queue=None):
  total = 0.0
  for i in range(len(q)):
    own = unit_(q[i]) @ unit_(k[i]) / temperature
    others = ([unit_(q[i]) @ unit_(x) / temperature for j, x in enumerate(k) if j != i] if queue is None
              else [unit_(q[i]) @ x / temperature for x in queue])
    total -= math.log(math.exp(own) / (math.exp(own) + sum(math.exp(o) for o in others)))
  return total / len(q)


def clip_(image, text, scale):
  rows = [[scale * (unit_(i) @ unit_(t)) for t in text] for i in image]
  columns = list(zip(*rows))
  of = lambda logits: sum(-log_softmax_(logits[i])[i] for i in range(len(logits))) / len(logits)
  return (of(rows) + of(columns)) / 2


def siglip_(image, text, scale, bias):
  total = 0.0
  for i in range(len(image)):
    for j in range(len(text)):
      logit = scale * (unit_(image[i]) @ unit_(text[j])) + bias
      total += math.log(1 + math.exp(-logit if i == j else logit))
  return total / len(image)


def cross_entropy_(logits, label, smoothing=0.0):
  total = 0.0
  for row, own in zip(logits, label):
    for k, log_p in enumerate(log_softmax_(row)):
      total -= ((1 - smoothing) * (k == own) + smoothing / len(row)) * log_p
  return total / len(logits)


def invariance_(z):
  v, b, d = z.shape
  return sum((z[i, n, c] - sum(z[:, n, c]) / v) ** 2
             for i in range(v) for n in range(b) for c in range(d)) / (v * b * d)


def covariance_of(x, y, ddof):
  return sum((s - sum(x) / len(x)) * (t - sum(y) / len(y)) for s, t in zip(x, y)) / (len(x) - ddof)


def variance_(z, margin=1.0, eps=1e-4):
  return sum(max(0, margin - math.sqrt(covariance_of(c, c, 1) + eps)) for c in z.T) / z.shape[1]


def covariance_(z):
  d = z.shape[1]
  return sum(covariance_of(z[:, i], z[:, j], 1) ** 2 for i in range(d) for j in range(d) if i != j) / d


def barlow_twins_(a, b, off_diagonal=0.0051, eps=1e-5):
  on = off = 0.0
  for i, x in enumerate(a.T):
    for j, y in enumerate(b.T):
      scale = math.sqrt((covariance_of(x, x, 0) + eps) * (covariance_of(y, y, 0) + eps))
      c = covariance_of(x, y, 0) / scale
      on, off = (on + (1 - c) ** 2, off) if i == j else (on, off + off_diagonal * c * c)
  return on, off


def whiten_(z, eps=0.0):
  """Gram-Schmidt on the channels, in their order, is the inverse Cholesky factor."""
  d = z.shape[1]
  cov = np.array([[covariance_of(z[:, i], z[:, j], 1) for j in range(d)] for i in range(d)])
  cov = (1 - eps) * cov + eps * np.eye(d)
  basis = []
  for i in range(d):
    w = np.eye(d)[i]
    for u in basis:
      w = w - (w @ cov @ u) * u
    basis.append(w / math.sqrt(w @ cov @ w))
  return (z - z.mean(0)) @ np.array(basis).T


def w_mse_(z, size, iterations, eps=0.0):
  terms = []
  for k in jax.random.split(KEY, iterations):
    order = np.asarray(jax.random.permutation(k, z.shape[1]))          # the draw is not the claim
    for start in range(0, len(order), size):
      white = [whiten_(view[order[start:start + size]], eps) for view in z]
      for i in range(len(z)):
        for j in range(i):
          terms += [2 - 2 * unit_(x) @ unit_(y) for x, y in zip(white[i], white[j])]
  return sum(terms) / len(terms)


def gaussian_shape_(z, slices, eps=1e-4):
  n, d = z.shape
  mean = [sum(c) / n for c in z.T]
  std = [max(eps, math.sqrt(covariance_of(c, c, 0))) for c in z.T]
  quantile = [statistics.NormalDist().inv_cdf((i + 1) / (n + 1)) for i in range(n)]
  shape = 0.0
  for direction in np.asarray(sigreg.directions(KEY, d, slices), np.float64).T:
    along = sorted(sum(direction[c] * (row[c] - mean[c]) / std[c] for c in range(d)) for row in z)
    shape += sum((x - q) ** 2 for x, q in zip(along, quantile)) / n
  return sum(m * m for m in mean) / d, sum((s - 1) ** 2 for s in std) / d, shape / slices


def sinkhorn_(scores, epsilon=0.05, iterations=3):
  """The listing of the paper, in f64 and without logarithms."""
  q = np.exp(scores.T / epsilon)
  q /= q.sum()
  for _ in range(iterations):
    q = q / q.sum(1, keepdims=True) / q.shape[0]
    q = q / q.sum(0, keepdims=True) / q.shape[1]
  return (q * q.shape[1]).T


def across_views_(probs, logits):
  total, pairs = 0.0, 0
  for g in range(len(probs)):
    for v in range(len(logits)):
      if v != g:
        total -= sum(p @ log_softmax_(x) for p, x in zip(probs[g], logits[v])) / len(probs[g])
        pairs += 1
  return total / pairs


def tokens_(probs, logits, hidden):
  images = []
  for b in range(len(probs)):
    terms = [-probs[b, n] @ log_softmax_(logits[b, n]) for n in range(probs.shape[1]) if hidden[b, n]]
    images.append(sum(terms) / len(terms) if terms else 0.0)
  return sum(images) / len(images)


def perplexity_(probs):
  mean = [sum(c) / len(c) for c in probs.reshape(-1, probs.shape[-1]).T]
  return math.exp(-sum(p * math.log(p) for p in mean if p > 0))


def normalise_patches_(x, eps=1e-6):
  out = np.empty_like(x)
  for at in np.ndindex(x.shape[:-1]):
    out[at] = [(c - sum(x[at]) / len(x[at])) / math.sqrt(covariance_of(x[at], x[at], 1) + eps) for c in x[at]]
  return out


def gaussian_kl_(mean, log_variance):
  """log(1 / s) + (s^2 + m^2) / 2 - 1/2, s the deviation, of each coordinate."""
  total = 0.0
  for m, v in zip(mean.ravel(), log_variance.ravel()):
    s = math.exp(v / 2)
    total += math.log(1 / s) + (s * s + m * m) / 2 - 0.5
  return total / len(mean)


def adversarial_(real, fake):
  sigmoid = lambda x: 1 / (1 + math.exp(-x))
  mean = lambda terms: sum(terms) / len(terms)
  return (mean([-math.log(sigmoid(x)) for x in real]) + mean([-math.log(1 - sigmoid(x)) for x in fake]),
          mean([-math.log(1 - sigmoid(x)) for x in real]) + mean([-math.log(sigmoid(x)) for x in fake]))


def normalised_mse_(p, t):
  terms = [2 - 2 * unit_(p[at]) @ unit_(t[at]) for at in np.ndindex(p.shape[:-1])]
  return sum(terms) / len(terms)


def spread_(z):
  v, b, d = z.shape
  z = np.array([[unit_(x) for x in view] for view in z])
  return sum(math.sqrt(covariance_of(z[i, :, c], z[i, :, c], 0)) for i in range(v) for c in range(d)) / (
      v * d) * math.sqrt(d)


def sigreg_(z, slices, knots=17):
  """The released rule: [0, 3], doubled by symmetry."""
  total, step = 0.0, 3 / (knots - 1)
  for direction in np.asarray(sigreg.directions(KEY, z.shape[1], slices), np.float64).T:
    for j in range(knots):
      t = j * step
      phi = sum(np.exp(1j * t * (row @ direction)) for row in z) / len(z)
      total += len(z) * step * (1 if j in (0, knots - 1) else 2) * (
          math.exp(-t * t / 2) * abs(phi - math.exp(-t * t / 2)) ** 2)
  return total / slices


def centre_(h, eps=1e-2):
  out = np.empty_like(h)
  for b, n in np.ndindex(h.shape[:2]):
    out[b, n] = h[b, n] - h[:, n].mean(0) - (h[b] - h.mean(0)).mean(0)
  return np.stack([c / math.sqrt((c**2).mean() + eps) for c in np.moveaxis(out, -1, 0)], -1)


def shares_(h):
  mean = h.mean((0, 1))
  total = ((h - mean) ** 2).mean()
  return (((h.mean(0) - mean) ** 2).mean() / total), (((h.mean(1) - mean) ** 2).mean() / total)


# ---- the comparison ----

class Case(NamedTuple):
  """ours(*inputs) and reference(*inputs in f64): an array or a tuple of some."""
  ours: Callable
  reference: Callable
  inputs: tuple


def normal(*shape, seed=0, scale=1.0):
  return np.float32(scale * np.random.default_rng(seed).normal(size=shape))


def probs(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def related(*shape, seed=0):
  """Two views that resemble each other, channels of different means and deviations."""
  a, b = normal(2, *shape, seed=seed)
  scale = np.linspace(0.3, 1.5, shape[-1], dtype=np.float32)
  return scale * a + 0.2, scale * (0.6 * a + 0.8 * b) - 0.1


LABEL = np.random.default_rng(1).integers(0, K, B)
HIDDEN = np.random.default_rng(2).random((B, N)) < 0.4
HIDDEN[:3] = False                       # images without hidden tokens
QUEUE = np.float32([unit_(x) for x in normal(20, D, seed=3)])
PAIR, TOKENS = related(B, D), related(B, N, D, seed=4)
VIEWS = np.stack([*PAIR, 0.5 * PAIR[0] + 0.5 * normal(B, D, seed=5)])
SKEWED = VIEWS[0] @ normal(D, D, seed=6) + 0.5

CASES = {
    "margin": Case(lambda a, b: contrastive.margin(a, b), margin_, PAIR),
    "margin 2.5": Case(lambda a, b: contrastive.margin(a, b, margin=2.5),
                       lambda a, b: margin_(a, b, 2.5), PAIR),
    "nt_xent": Case(lambda a, b: contrastive.nt_xent(a, b), nt_xent_, PAIR),
    "nt_xent 0.5": Case(lambda a, b: contrastive.nt_xent(a, b, temperature=0.5),
                        lambda a, b: nt_xent_(a, b, 0.5), PAIR),
    "info_nce": Case(lambda q, k: contrastive.info_nce(q, k), info_nce_, PAIR),
    "info_nce, queue": Case(lambda q, k, queue: contrastive.info_nce(q, k, temperature=0.07, queue_QD=queue),
                            lambda q, k, queue: info_nce_(q, k, 0.07, queue), (*PAIR, QUEUE)),
    "clip": Case(lambda a, b: contrastive.clip(a, b, jnp.float32(14.0)),
                 lambda a, b: clip_(a, b, 14.0), PAIR),
    "siglip": Case(lambda a, b: contrastive.siglip(a, b, jnp.float32(10.0), jnp.float32(-5.0)),
                   lambda a, b: siglip_(a, b, 10.0, -5.0), PAIR),
    "cross_entropy": Case(lambda x: contrastive.cross_entropy(x, LABEL),
                          lambda x: cross_entropy_(x, LABEL), (normal(B, K, scale=3),)),
    "cross_entropy, smoothed": Case(lambda x: contrastive.cross_entropy(x, LABEL, 0.1),
                                    lambda x: cross_entropy_(x, LABEL, 0.1), (normal(B, K, scale=3),)),
    "invariance": Case(lambda z: redundancy.invariance(z), invariance_, (VIEWS,)),
    "variance": Case(lambda z: redundancy.variance(z), variance_, (VIEWS[0],)),
    "covariance": Case(lambda z: redundancy.covariance(z), covariance_, (SKEWED,)),
    "barlow_twins": Case(lambda a, b: redundancy.barlow_twins(a, b), barlow_twins_, PAIR),
    "whiten": Case(lambda z: redundancy.whiten(z), whiten_, (SKEWED,)),
    "whiten, mixed": Case(lambda z: redundancy.whiten(z, eps=0.1), lambda z: whiten_(z, 0.1), (SKEWED,)),
    "w_mse": Case(lambda z: redundancy.w_mse(z, KEY, size=16, iterations=2),
                  lambda z: w_mse_(z, 16, 2), (VIEWS,)),
    "gaussian_shape": Case(lambda z: redundancy.gaussian_shape(z, KEY, slices=9),
                           lambda z: gaussian_shape_(z, 9), (VIEWS[0],)),
    "sinkhorn": Case(lambda s: clustering.sinkhorn(s), sinkhorn_, (np.tanh(normal(B, K)),)),
    "sinkhorn, once": Case(lambda s: clustering.sinkhorn(s, epsilon=0.3, iterations=1),
                           lambda s: sinkhorn_(s, 0.3, 1), (np.tanh(normal(B, K)),)),
    "across_views": Case(lambda p, x: clustering.across_views(p, x), across_views_,
                         (probs(2, B, K), normal(2, B, K, scale=3))),
    "across_views, local": Case(lambda p, x: clustering.across_views(p, x), across_views_,
                                (probs(2, B, K), normal(5, B, K, scale=3))),
    "tokens": Case(lambda p, x: clustering.tokens(p, x, HIDDEN), lambda p, x: tokens_(p, x, HIDDEN),
                   (probs(B, N, K), normal(B, N, K, scale=3))),
    "perplexity": Case(lambda p: clustering.perplexity(p), perplexity_, (probs(2, B, K),)),
    "normalise_patches": Case(lambda x: reconstruction.normalise_patches(x), normalise_patches_,
                              (3 * TOKENS[0] + 1,)),
    "squared": Case(lambda p, t: reconstruction.squared(p, t),
                    lambda p, t: sum((p - t)[..., c] ** 2 for c in range(D)) / D, TOKENS),
    "absolute": Case(lambda p, t: reconstruction.absolute(p, t),
                     lambda p, t: sum(abs(p - t)[..., c] for c in range(D)) / D, TOKENS),
    "gaussian_kl": Case(lambda m, v: reconstruction.gaussian_kl(m, v), gaussian_kl_, PAIR),
    "adversarial": Case(lambda r, f: reconstruction.adversarial(r, f), adversarial_,
                        (normal(B, scale=3), normal(B, seed=1, scale=3))),
    "unit": Case(lambda x: prediction.unit(x), lambda x: np.array([unit_(r) for r in x]), (VIEWS[0],)),
    "normalised_mse": Case(lambda p, t: prediction.normalised_mse(p, t), normalised_mse_, TOKENS),
    "spread": Case(lambda z: prediction.spread(z), spread_, (VIEWS,)),
    "sigreg": Case(lambda z: sigreg.sigreg(z, KEY, slices=5), lambda z: sigreg_(z, 5), (VIEWS[0],)),
    "centre": Case(lambda h: prediction.centre(h), centre_, (TOKENS[0],)),
    "shares": Case(lambda h: prediction.shares(h), shares_, (TOKENS[0],)),
    "masked_mean": Case(lambda x: prediction.masked_mean(x, HIDDEN), lambda x: x[HIDDEN].mean(),
                        (normal(B, N),)),
}
ELSEWHERE = {"smooth_l1", "layer_norm", "directions", "quadrature"}         # test_losses.py


@functools.cache
def expected(name):
  return CASES[name].reference(*(np.float64(x) for x in CASES[name].inputs))


def difference(name):
  """The largest difference of an output, relative to its largest entry."""
  case, pairs = CASES[name], []
  jax.tree.map(lambda x, y: pairs.append((np.asarray(x, np.float64), np.asarray(y, np.float64))),
               tuple(jax.tree.leaves(case.ours(*(jnp.asarray(x) for x in case.inputs)))),
               tuple(jax.tree.leaves(expected(name))))
  assert all(x.shape == y.shape for x, y in pairs)
  return max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)


@pytest.mark.parametrize("name", CASES)
def test_equals_its_equation(name):
  LARGEST[name] = difference(name)
  assert LARGEST[name] < 1e-5


def test_every_function_has_an_equation():
  modules = clustering, contrastive, prediction, reconstruction, redundancy, sigreg
  public = {name for m in modules for name, f in inspect.getmembers(m, inspect.isfunction)
            if f.__module__ == m.__name__ and name[0] != "_"}
  assert public == {name.split()[0].rstrip(",") for name in CASES} | ELSEWHERE


# ---- what the equations promise ----

_LABEL = lambda x: x[1].argmax(-1)
SCALARS = {                              # of two views z [2 B D]; what is drawn or chosen follows the images
    "margin": lambda z: sum(contrastive.margin(z[0], z[1], margin=2.0)),
    "nt_xent": lambda z: contrastive.nt_xent(z[0], z[1]),
    "info_nce": lambda z: contrastive.info_nce(z[0], z[1]),
    "info_nce, queue": lambda z: contrastive.info_nce(z[0], z[1], queue_QD=jnp.asarray(QUEUE)),
    "clip": lambda z: contrastive.clip(z[0], z[1], jnp.float32(14.0)),
    "siglip": lambda z: contrastive.siglip(z[0], z[1], jnp.float32(10.0), jnp.float32(-5.0)),
    "cross_entropy": lambda z: contrastive.cross_entropy(z[0], _LABEL(z), 0.1),
    "invariance": redundancy.invariance,
    "variance": lambda z: redundancy.variance(z[0]),
    "covariance": lambda z: redundancy.covariance(z[0]),
    "barlow_twins": lambda z: sum(redundancy.barlow_twins(z[0], z[1])),
    "w_mse": lambda z: redundancy.w_mse(z, KEY, size=B),
    "gaussian_shape": lambda z: sum(redundancy.gaussian_shape(z[0], KEY, slices=16)),
    "sigreg": lambda z: sigreg.sigreg(z[0], KEY, slices=16),
    "swav": lambda z: clustering.across_views(jax.vmap(clustering.sinkhorn)(prediction.unit(z)), 10 * z),
    "dino": lambda z: clustering.across_views(jax.nn.softmax(z[:1] / 0.04), z / 0.1),
    "tokens": lambda z: clustering.tokens(jax.nn.softmax(z[0])[:, None], z[1][:, None], z[0, :, :1] >= 0),
    "perplexity": lambda z: clustering.perplexity(jax.nn.softmax(z)),
    "squared": lambda z: reconstruction.squared(z[0], reconstruction.normalise_patches(z[1])).mean(),
    "absolute": lambda z: reconstruction.absolute(z[0], z[1]).mean(),
    "gaussian_kl": lambda z: reconstruction.gaussian_kl(z[0], z[1]),
    "adversarial": lambda z: sum(reconstruction.adversarial(z[0, :, 0], z[1, :, 0])),
    "normalised_mse": lambda z: prediction.normalised_mse(z[0], z[1]),
    "smooth_l1": lambda z: prediction.smooth_l1(z[0], prediction.layer_norm(z[1]), z[0, :, 0] >= 0),
    "centre": lambda z: jnp.abs(prediction.centre(z[0][:, None] * jnp.linspace(1, 2, 3)[:, None])).mean(),
}
DIAGNOSTICS = {"spread": prediction.spread, "masked_mean": lambda z: prediction.masked_mean(z, z > 0),
               "shares": lambda z: sum(prediction.shares(jnp.moveaxis(z, 0, 1)))}


@functools.cache
def differentiated(name):
  return jax.jit(jax.value_and_grad(SCALARS[name]))


@pytest.mark.parametrize("name", SCALARS)
def test_gradient_is_finite_at_collapse(name):
  point = np.linspace(-1, 1, D, dtype=np.float32)
  for z in (np.zeros((2, B, D), np.float32), np.ones((2, B, D), np.float32), np.tile(point, (2, B, 1)),
            np.stack([np.zeros((B, D), np.float32), PAIR[1]])):
    value, gradient = differentiated(name)(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", SCALARS)
def test_the_order_of_images_does_not_matter(name):
  order = np.random.default_rng(7).permutation(B)
  value, gradient = differentiated(name)(np.stack(PAIR))
  other, moved = differentiated(name)(np.stack(PAIR)[:, order])
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(moved, gradient[:, order], rtol=1e-4, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("name", SCALARS)
def test_eight_devices_are_one(name):
  """The batch split over eight devices: the value and gradient of the global batch, not of its parts."""
  if jax.device_count() != 8:
    pytest.skip("needs eight devices, fake or not")
  split = NamedSharding(Mesh(np.array(jax.devices()), "data"), P(None, "data"))
  value, gradient = differentiated(name)(np.stack(PAIR))
  parted = jax.jit(jax.value_and_grad(SCALARS[name]), in_shardings=split, out_shardings=(None, split))
  other, parts = parted(jax.device_put(np.stack(PAIR), split))
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(parts, gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", [*SCALARS, *DIAGNOSTICS])
def test_half_precision_gives_f32(name, dtype):
  out = jax.eval_shape((SCALARS | DIAGNOSTICS)[name], jax.ShapeDtypeStruct((2, B, D), dtype))
  assert out.dtype == jnp.float32 and out.shape == ()


def test_nt_xent_is_lowest_where_pairs_agree_and_images_spread():
  n, temperature = 8, 0.5
  simplex = np.eye(n, dtype=np.float32) - 1 / n                # cosines of -1 / (n - 1)
  loss = lambda a, b: float(contrastive.nt_xent(a, b, temperature=temperature))
  own, other = math.exp(1 / temperature), math.exp(-1 / (n - 1) / temperature)
  best = -math.log(own / (own + 2 * (n - 1) * other))
  np.testing.assert_allclose(loss(simplex, simplex), best, rtol=1e-5)
  for seed in range(20):
    a, b = normal(2, n, n, seed=seed)
    assert loss(simplex + 0.1 * a, simplex + 0.1 * a) > best and loss(a, b) > best
  for point in (np.ones((n, n), np.float32), np.zeros((n, n), np.float32)):
    np.testing.assert_allclose(loss(point, point), math.log(2 * n - 1), rtol=1e-5)


def test_sinkhorn_uses_prototypes_alike():
  scores = prediction.unit(normal(B, K))
  once, many = clustering.sinkhorn(scores), clustering.sinkhorn(scores, iterations=200)
  np.testing.assert_allclose(once.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(many.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(many.sum(0), B / K, rtol=1e-3)
  assert np.ptp(once.sum(0)) > np.ptp(many.sum(0))
  np.testing.assert_allclose(clustering.sinkhorn(jnp.ones((6, 3))), 1 / 3, rtol=1e-6)
  assert np.isfinite(clustering.sinkhorn(100 * scores)).all()


def test_an_assignment_does_not_meet_its_own_view():
  p, logits = probs(2, B, K), normal(4, B, K)
  for g in range(2):
    alone = p * (np.arange(2) == g)[:, None, None]             # the assignments of one global view
    gradient = np.asarray(jax.grad(lambda x: clustering.across_views(alone, x))(logits))
    silent = [v for v in range(4) if (gradient[v] == 0).all()]
    assert silent == [g]


def test_tokens_sees_hidden_tokens_only():
  p, x = probs(B, N, K), normal(B, N, K)
  loss = lambda x, hidden=HIDDEN: clustering.tokens(p, x, hidden)
  gradient = np.asarray(jax.grad(loss)(x))
  assert (gradient[~HIDDEN] == 0).all() and (gradient[HIDDEN] != 0).any(-1).all()
  assert loss(x, np.zeros_like(HIDDEN)) == 0


def test_perplexity_counts_the_prototypes_in_use():
  for used in (1, 3, K):
    codes = jnp.eye(K)[jnp.arange(4 * used) % used]
    np.testing.assert_allclose(clustering.perplexity(codes), used, rtol=1e-5)


def test_whitened_covariance_is_the_identity():
  mixed = normal(256, D) @ (normal(D, D, seed=1) + 4 * np.eye(D)) + 3
  assert 5 < np.linalg.cond(np.cov(mixed.T)) < 500      # f32 loses as many digits; with 1e4 the test would fail
  white = redundancy.whiten(np.float32(mixed))
  np.testing.assert_allclose(np.cov(np.asarray(white, np.float64).T), np.eye(D), atol=1e-4)
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)


def test_covariance_of_independent_columns_is_small():
  n, z = 4096, normal(4096, 8)
  assert redundancy.covariance(z) < 2 * 7 / n                  # each squared covariance has the mean 1 / n
  tied = np.concatenate([z[:, :1], z[:, :1], z[:, 2:]], 1)
  np.testing.assert_allclose(redundancy.covariance(tied), 2 / 8, rtol=0.1)
  np.testing.assert_allclose(redundancy.barlow_twins(z, z), (0, 0), atol=1e-3)


def test_gaussian_shape_knows_a_gaussian():
  z = normal(4096, 4)
  value = jax.jit(lambda z: redundancy.gaussian_shape(z, KEY, slices=64))
  np.testing.assert_allclose(value(z), 0, atol=5e-3)
  uniform, two = np.random.default_rng(1).random(z.shape), np.sign(z[:, :1]) * np.ones(4)
  assert value(z + 1)[0] > 0.9 and value(3 * z)[1] > 3
  assert value(np.float32(uniform))[2] > 5 * value(z)[2] and value(np.float32(two))[2] > 0.1
  np.testing.assert_allclose(value(3 * z + 1)[2], value(z)[2], rtol=1e-2)      # scale and place are not shape


def test_gaussian_shape_pulls_as_hard_when_nearly_collapsed():
  """The slope of the second term in the scale of the batch tends to -2 (arXiv 2606.02572, figure 2)."""
  z = np.float32((VIEWS[0] - VIEWS[0].mean(0)) / VIEWS[0].std(0))
  slope = jax.jit(jax.grad(lambda s: redundancy.gaussian_shape(s * z, KEY, slices=4)[1]))
  for scale in (1e-1, 1e-2, 1e-3):
    np.testing.assert_allclose(slope(scale), -2 * (1 - scale), rtol=1e-4)


def test_gaussian_shape_holds_the_deviation_still():
  """As the batch is scaled by s, the distance moves as that of s x from q: 2 mean x (x - q)."""
  z = VIEWS[0] - VIEWS[0].mean(0)
  slope = jax.grad(lambda s: redundancy.gaussian_shape(s * z, KEY, slices=9)[2])(1.0)
  x = np.sort(z / z.std(0) @ np.asarray(sigreg.directions(KEY, D, 9)), 0)
  q = [[statistics.NormalDist().inv_cdf((i + 1) / (B + 1))] for i in range(B)]
  np.testing.assert_allclose(slope, 2 * (x * (x - q)).mean(), rtol=1e-4)


# ---- defects ----

DEFECTS = [                              # function, what is right, what a slip would write
    (contrastive.margin, "other, jnp.square", "other | True, jnp.square"),
    (contrastive.margin, "/ other.sum()", "/ other.size"),
    (contrastive.nt_xent, "jnp.eye(2 * n, dtype=bool), -jnp.inf", "jnp.eye(2 * n, dtype=bool), 0.0"),
    (contrastive.nt_xent, "(jnp.arange(2 * n) + n) % (2 * n)", "jnp.arange(2 * n) ^ 1"),
    (contrastive.info_nce, "unit(q_BD), unit(k_BD)", "q_BD, unit(k_BD)"),
    (contrastive.clip, "logits.T, own", "logits, own"),
    (contrastive.siglip, "2 * jnp.eye(len(logits)) - 1", "jnp.eye(len(logits))"),
    (contrastive.cross_entropy, "smoothing * log_p.mean()", "smoothing * log_p.sum(-1).mean()"),
    (redundancy.variance, "ddof=1", "ddof=0"),
    (redundancy.variance, "- deviation", "- deviation**2"),
    (redundancy.covariance, "(len(z) - 1)", "len(z)"),
    (redundancy.covariance, " - jnp.square(jnp.diagonal(cov)).sum()", ""),
    (redundancy.barlow_twins, "z.var(0)", "z.var(0, ddof=1)"),
    (redundancy.barlow_twins, "(jnp.square(c).sum() - jnp.square(on).sum())", "jnp.square(c).sum()"),
    (redundancy.whiten, "(len(z) - 1)", "len(z)"),
    (redundancy.whiten, "lower=True", "lower=True, trans=1"),
    (redundancy.w_mse, "range(i + 1, v)", "range(1, v)"),
    (redundancy.gaussian_shape, "(len(z) + 1)", "len(z) * 0.99"),
    (redundancy.gaussian_shape, "(z - mean) /", "z /"),
    (clustering.sinkhorn, "log_q, 0", "log_q, 1"),
    (clustering.across_views, "other, entropy", "other | True, entropy"),
    (clustering.across_views, "/ other.sum()", "/ other.size"),
    (clustering.tokens, "each.mean()", "each.sum() / jnp.maximum((count > 0).sum(), 1)"),
    (clustering.tokens, "/ jnp.maximum(count, 1)", "/ hidden_BN.shape[1]"),
    (reconstruction.normalise_patches, "ddof=1", "ddof=0"),
    (reconstruction.gaussian_kl, "sum(-1).mean()", "mean()"),
    (reconstruction.adversarial, "positive(-real_B) + positive(fake_B)", "positive(fake_B)"),
    (prediction.spread, "std(1)", "std(0)"),
    (prediction.centre, "h.mean(1, keepdims=True)", "0"),
    (sigreg.sigreg, "z_BD.shape[0] *", "1.0 *"),
]


@pytest.mark.parametrize("function,right,wrong", DEFECTS, ids=lambda x: getattr(x, "__name__", None))
def test_the_comparison_sees_a_defect(function, right, wrong, monkeypatch):
  source = inspect.getsource(function)
  assert source.count(right) == 1
  module = inspect.getmodule(function)
  scope = dict(vars(module))
  exec(source.replace(right, wrong), scope)
  monkeypatch.setattr(module, function.__name__, scope[function.__name__])
  names = [n for n in CASES if n.split()[0].rstrip(",") == function.__name__]
  assert names and max(difference(n) for n in names) > 1e-3


@pytest.mark.parametrize("name", [
    "margin", "nt_xent", "info_nce", "clip", "siglip", "variance", "covariance", "barlow_twins", "whiten",
    "gaussian_shape", "sinkhorn", "sigreg", "spread", "perplexity"])
def test_the_comparison_sees_statistics_of_one_device(name):
  """Each quarter of the batch by itself, then the mean of the four (or the rows side by side): what a loss
  inside a map over devices computes where it forgets to gather."""
  case = CASES[name]
  axis = 1 if case.inputs[0].ndim == 3 else 0
  quarters = zip(*(np.split(x, 4, axis) for x in case.inputs))
  parts = [jax.tree.leaves(case.ours(*(jnp.asarray(x) for x in part))) for part in quarters]
  local = [np.concatenate(p) if p[0].ndim else np.mean(p) for p in zip(*parts)]
  worst = max(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(local, jax.tree.leaves(expected(name))))
  assert worst > 1e-3


def test_largest_difference(capsys):
  """Prints what the comparisons of this module found."""
  if LARGEST:
    name = max(LARGEST, key=LARGEST.get)
    with capsys.disabled():
      print(f"\nlargest relative difference from NumPy, of {len(LARGEST)} comparisons: {LARGEST[name]:.1e} "
            f"({name})")
    assert LARGEST[name] < 1e-5
