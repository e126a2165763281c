"""Variance and covariance terms of VICReg (arXiv 2105.04906, equations 1 to 4), over the global batch."""
import jax
import jax.numpy as jnp


def variance(z_BD: jax.Array, *, margin: float = 1.0, eps: float = 1e-4) -> jax.Array:
  """Mean over dimensions of max(0, margin - std)."""
  std = jnp.sqrt(z_BD.astype(jnp.float32).var(0, ddof=1) + eps)
  return jax.nn.relu(margin - std).mean()


def covariance(z_BD: jax.Array) -> jax.Array:
  """Sum of squared off-diagonal covariances, divided by D."""
  z = z_BD.astype(jnp.float32)
  z = z - z.mean(0)
  c = z.T @ z / (z.shape[0] - 1)
  return (jnp.sum(c**2) - jnp.sum(jnp.diag(c) ** 2)) / z.shape[1]
