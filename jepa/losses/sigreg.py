"""SIGReg: sketched isotropic Gaussian regularisation (LeJEPA, arXiv 2511.08544, Algorithm 1).

The Epps-Pulley distance between the empirical characteristic function of one-dimensional projections of the
embeddings and that of N(0, 1), averaged over random unit directions:

  EP(u) = N * integral |phi_hat(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,   phi_hat(t) = mean_n exp(i t u_n)

phi_hat is a mean over B: under jit that is the global batch, whatever the mesh.
"""
import math

import jax
import jax.numpy as jnp
import numpy as np

QUADRATURES = ("released", "paper")


def quadrature(name: str, knots: int = 17) -> tuple[np.ndarray, np.ndarray]:
  """(t, weight), each [knots]. "released": [0, 3] with doubled weights, by even symmetry, as in the public
  code and LeWM; "paper": [-5, 5], as in Algorithm 1. Both by the trapezoidal rule, with exp(-t^2 / 2) in the
  weight."""
  if name not in QUADRATURES:
    raise ValueError(f"SIGReg quadrature {name!r} is unknown; choose one of {', '.join(QUADRATURES)}")
  t = np.linspace(0.0, 3.0, knots) if name == "released" else np.linspace(-5.0, 5.0, knots)
  weight = np.full(knots, t[1] - t[0])
  weight[[0, -1]] /= 2
  weight *= 2 if name == "released" else 1
  return t.astype(np.float32), (weight * np.exp(-t**2 / 2)).astype(np.float32)


def directions(key: jax.Array, width: int, slices: int) -> jax.Array:
  """Random unit columns [D M]."""
  a = jax.random.normal(key, (width, slices))
  return a / jnp.linalg.norm(a, axis=0, keepdims=True)


def sigreg(z_BD: jax.Array, key: jax.Array, *, slices: int = 1024, knots: int = 17,
           rule: str = "released") -> jax.Array:
  """Mean over `slices` random directions of the Epps-Pulley statistic of z_BD [B D] against N(0, 1)."""
  t, weight = quadrature(rule, knots)
  u = z_BD.astype(jnp.float32) @ directions(key, z_BD.shape[-1], slices)      # [B M]
  # exp(i t u) from knot to knot is a rotation by the spacing: two transcendental functions
  # in place of two a knot.
  cos, sin = jnp.cos(t[0] * u), jnp.sin(t[0] * u)
  cos_step, sin_step = jnp.cos((t[1] - t[0]) * u), jnp.sin((t[1] - t[0]) * u)
  total = 0.0
  for k in range(knots):
    total += weight[k] * (jnp.square(cos.mean(0) - math.exp(-t[k] ** 2 / 2)) + jnp.square(sin.mean(0)))
    cos, sin = cos * cos_step - sin * sin_step, sin * cos_step + cos * sin_step
  return z_BD.shape[0] * total.mean()
