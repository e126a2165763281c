"""Losses against plain NumPy loops written from the papers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa.losses import prediction, sigreg

KEY = jax.random.key(0)


def statistic(u, rule, knots=17):
  """Epps-Pulley of one projection [N] by the trapezoidal rule, one knot and one sample at a time
  (arXiv 2511.08544)."""
  low, high, factor = {"released": (0.0, 3.0, 2.0), "paper": (-5.0, 5.0, 1.0)}[rule]
  step, total = (high - low) / (knots - 1), 0.0
  for j in range(knots):
    t = low + j * step
    phi = sum(complex(np.cos(t * x), np.sin(t * x)) for x in u) / len(u)
    edge = 0.5 if j in (0, knots - 1) else 1.0
    total += factor * edge * step * np.exp(-t * t / 2) * abs(phi - np.exp(-t * t / 2)) ** 2
  return len(u) * total


@pytest.fixture(scope="module")
def regularise():
  return jax.jit(sigreg.sigreg, static_argnames=("slices", "knots", "rule"))


@pytest.mark.parametrize("rule,knots", [("released", 17), ("paper", 17), ("released", 8)])
def test_sigreg_is_the_mean_statistic_of_its_slices(regularise, rule, knots):
  z = np.random.default_rng(0).normal(size=(12, 3)) * [0.5, 1.0, 2.0] + 0.3
  columns = np.asarray(sigreg.directions(KEY, 3, 5), np.float64)
  expected = np.mean([statistic(z @ columns[:, m], rule, knots) for m in range(5)])
  np.testing.assert_allclose(regularise(z, KEY, slices=5, rule=rule, knots=knots), expected, rtol=1e-5)


def test_directions_are_unit_and_without_preference():
  columns = np.asarray(sigreg.directions(KEY, 8, 4096), np.float64)
  np.testing.assert_allclose((columns ** 2).sum(0), 1, rtol=1e-5)
  np.testing.assert_allclose(columns.mean(1), 0, atol=4 / np.sqrt(8 * 4096))
  np.testing.assert_allclose(columns @ columns.T / 4096, np.eye(8) / 8, atol=0.01)


@pytest.mark.parametrize("rule", sigreg.QUADRATURES)
def test_sigreg_of_gaussians_has_the_closed_form_mean(regularise, rule):
  """E |phi_hat - phi|^2 = (1 - exp(-t^2)) / N for N(0, 1), so the mean is the integral of exp(-t^2/2) (1 -
  exp(-t^2)), for any N: about sqrt(2 pi) (1 - 1 / sqrt 3) = 1.06."""
  draws = [float(regularise(np.random.default_rng(s).normal(size=(64, 4)), KEY, slices=64, rule=rule))
           for s in range(60)]
  expected = np.sqrt(2 * np.pi) * (1 - 1 / np.sqrt(3))
  assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(60) + 0.02


def test_sigreg_is_large_for_everything_else(regularise):
  n, rng = 512, np.random.default_rng(1)
  gauss = rng.normal(size=(n, 8))
  value = lambda z: float(regularise(z, KEY, slices=256))
  floor = value(gauss)
  others = {"collapsed to a point": 0 * gauss, "collapsed to a line": gauss[:, :1] * np.ones(8) / np.sqrt(8),
            "half a scale": gauss / 2, "twice a scale": 2 * gauss, "shifted": gauss + 0.5,
            "uniform, of variance 1": np.sqrt(12) * (rng.random((n, 1)) - 0.5) * np.ones(8),
            "two points": np.sign(gauss[:, :1]) * np.ones(8)}
  for name, z in others.items():
    assert value(z) > 5 * floor, name
  # A point at the origin: N * integral of (1 - exp(-t^2/2))^2 exp(-t^2/2) over the line,
  # less the tail beyond 3.
  t = np.linspace(-3, 3, 20001)
  np.testing.assert_allclose(value(0 * gauss),
                             n * np.trapezoid((1 - np.exp(-t**2 / 2)) ** 2 * np.exp(-t**2 / 2), t), rtol=1e-2)


def test_the_quadratures_agree_where_the_integrand_is_smooth(regularise):
  rng = np.random.default_rng(2)
  for z in (rng.normal(size=(256, 4)), 0.5 * rng.normal(size=(256, 4)), rng.normal(size=(256, 4)) + 0.3):
    released, paper = (float(regularise(z, KEY, slices=128, rule=rule)) for rule in sigreg.QUADRATURES)
    np.testing.assert_allclose(released, paper, rtol=0.05)


def test_sigreg_pulls_a_collapsed_batch_apart():
  z = 1e-3 * np.random.default_rng(3).normal(size=(32, 4)).astype(np.float32)
  gradient = jax.jit(jax.grad(lambda z: sigreg.sigreg(z, KEY, slices=64)))
  assert np.isfinite(gradient(np.zeros_like(z))).all()
  g = np.asarray(gradient(z))
  assert np.isfinite(g).all() and (g * z).sum() < 0          # the step -g enlarges z


def test_sigreg_refuses_an_unknown_rule():
  with pytest.raises(ValueError, match="'simpson'.*released, paper"):
    sigreg.quadrature("simpson")


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_smooth_l1_is_the_mean_over_valid_tokens(beta):
  rng = np.random.default_rng(4)
  p, t = 2 * rng.normal(size=(2, 2, 3, 4, 5))
  valid = rng.random((2, 3, 4)) < 0.6
  terms = []
  for at in np.ndindex(2, 3, 4):
    if valid[at]:
      for d in range(5):
        e = abs(p[at][d] - t[at][d])
        terms.append(0.5 * e * e / beta if e < beta else e - 0.5 * beta)
  assert 0 < valid.sum() < valid.size and len(terms) == 5 * valid.sum()
  np.testing.assert_allclose(prediction.smooth_l1(p, t, valid, beta=beta), np.mean(terms), rtol=1e-5)


def test_smooth_l1_ignores_what_is_invalid():
  p, t = np.random.default_rng(5).normal(size=(2, 2, 3, 4)).astype(np.float32)
  valid = np.array([[True, False, True], [False, False, True]])
  loss = lambda p: prediction.smooth_l1(p, t, valid)
  changed = np.where(valid[..., None], p, 1e6)
  assert loss(p) == loss(changed)
  g = np.asarray(jax.grad(loss)(p))
  assert (g[~valid] == 0).all() and (g[valid] != 0).any(-1).all()
  assert prediction.smooth_l1(p, t, np.zeros_like(valid)) == 0
  assert loss(p.astype(jnp.bfloat16)).dtype == jnp.float32


def test_layer_norm_is_without_affine_and_finite_at_collapse():
  x = 3 + 2 * np.random.default_rng(6).normal(size=(2, 5, 7))
  expected = np.empty_like(x)
  for at in np.ndindex(2, 5):
    expected[at] = (x[at] - x[at].mean()) / np.sqrt(((x[at] - x[at].mean()) ** 2).mean() + 1e-5)
  np.testing.assert_allclose(prediction.layer_norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
  constant = jnp.ones((2, 7))
  assert np.isfinite(jax.grad(lambda x: (prediction.layer_norm(x) ** 2).sum())(constant)).all()
  assert prediction.layer_norm(constant.astype(jnp.bfloat16)).dtype == jnp.float32


def test_centre_takes_position_and_image_away():
  rng = np.random.default_rng(0)
  position, image = rng.normal(size=(1, 6, 4)), rng.normal(size=(32, 1, 4))
  rest = rng.normal(size=(32, 6, 4)) * np.array([0.5, 1.0, 2.0, 4.0])
  h = np.float32(3 * position + 2 * image + rest)
  got = np.asarray(prediction.centre(h, eps=0.0))
  np.testing.assert_allclose(got.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(got.mean(1), 0, atol=1e-5)
  np.testing.assert_allclose((got**2).mean((0, 1)), 1, rtol=1e-5)
  # neither was ever there
  np.testing.assert_allclose(got, prediction.centre(np.float32(rest), eps=0.0), atol=1e-4)
  assert np.isfinite(jax.grad(lambda x: prediction.centre(x).sum())(jnp.ones((4, 3, 2)))).all()


def test_shares_tell_position_from_image():
  rng = np.random.default_rng(0)
  position, image, rest = (rng.normal(size=(1, 50, 8)), rng.normal(size=(400, 1, 8)),
                           rng.normal(size=(400, 50, 8)))
  np.testing.assert_allclose(prediction.shares(np.float32(position + 0 * image)), (1, 0), atol=1e-4)
  np.testing.assert_allclose(prediction.shares(np.float32(image + 0 * position)), (0, 1), atol=1e-4)
  power = [np.mean((x - x.mean((0, 1)))**2) for x in (position, image, rest)]
  np.testing.assert_allclose(prediction.shares(np.float32(position + image + rest)),
                             np.array(power[:2]) / sum(power), rtol=0.1)
