"""What keeps embeddings apart without negatives: variance, decorrelation, whitening. z [N D], N the global
batch; all statistics in f32, products too (an accelerator's default is TF32 or bf16)."""
import jax
import jax.numpy as jnp

from jepa.losses.prediction import unit
from jepa.losses.sigreg import directions


def invariance(z_VBD: jax.Array) -> jax.Array:
  """Mean squared distance of views to their mean, by channel: what pulls views together. By itself it is 0
  at a constant. Of two views it is a quarter of VICReg's term, the mean of (z_1 - z_2)^2."""
  z = z_VBD.astype(jnp.float32)
  return jnp.square(z - z.mean(0)).mean()


def variance(z_ND: jax.Array, *, margin: float = 1.0, eps: float = 1e-4) -> jax.Array:
  """Mean over channels of max(0, margin - sqrt(Var + eps)) (VICReg, arXiv 2105.04906, eq. 1)."""
  deviation = jnp.sqrt(z_ND.astype(jnp.float32).var(0, ddof=1) + eps)
  return jnp.maximum(0.0, margin - deviation).mean()


def covariance(z_ND: jax.Array) -> jax.Array:
  """Squared covariances of different channels, summed, divided by D (VICReg, eq. 4)."""
  z = z_ND.astype(jnp.float32)
  z = z - z.mean(0)
  cov = jnp.matmul(z.T, z, precision="float32") / (len(z) - 1)
  return (jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()) / z.shape[1]


def barlow_twins(a_BD: jax.Array, b_BD: jax.Array, *, off_diagonal: float = 0.0051,
                 eps: float = 1e-5) -> tuple[jax.Array, jax.Array]:
  """(sum_i (1 - C_ii)^2, off_diagonal * sum_{i != j} C_ij^2), C the cross-correlation of two views
  (arXiv 2103.03230, eq. 1-2)."""
  def normal(z):
    z = z.astype(jnp.float32)
    return (z - z.mean(0)) * jax.lax.rsqrt(z.var(0) + eps)
  c = jnp.matmul(normal(a_BD).T, normal(b_BD), precision="float32") / len(a_BD)
  on = jnp.diagonal(c)
  return jnp.square(1 - on).sum(), off_diagonal * (jnp.square(c).sum() - jnp.square(on).sum())


def whiten(z_ND: jax.Array, *, eps: float = 0.0) -> jax.Array:
  """z, centred and with covariance the identity, by the inverse Cholesky factor (W-MSE, arXiv 2007.06346,
  eq. 3-4). N > D; the covariance is mixed with `eps` of the identity."""
  z = z_ND.astype(jnp.float32)
  z = z - z.mean(0)
  cov = jnp.matmul(z.T, z, precision="float32") / (len(z) - 1)
  # The floor gives a constant batch a factor; beside variances over 1e-5 it is below the resolution of f32.
  factor = jnp.linalg.cholesky((1 - eps) * cov + max(eps, 1e-12) * jnp.eye(z.shape[1]))
  return jax.scipy.linalg.solve_triangular(factor, z.T, lower=True).T


def w_mse(z_VBD: jax.Array, key: jax.Array, *, size: int = 128, iterations: int = 1,
          eps: float = 0.0) -> jax.Array:
  """Whitening MSE (arXiv 2007.06346, eq. 5): each view is whitened in sub-batches of `size`, the same for
  all views, drawn `iterations` times; then 2 - 2 cos, the mean over pairs of views."""
  v, b, d = z_VBD.shape

  def once(k):
    parts = z_VBD[:, jax.random.permutation(k, b)].reshape(v, b // size, size, d)
    white = unit(jax.vmap(jax.vmap(lambda z: whiten(z, eps=eps)))(parts))
    return sum((2 - 2 * (white[i] * white[j]).sum(-1)).mean() for i in range(v) for j in range(i + 1, v))

  return sum(once(k) for k in jax.random.split(key, iterations)) / (iterations * v * (v - 1) / 2)


def gaussian_shape(z_ND: jax.Array, key: jax.Array, *, slices: int = 256,
                   eps: float = 1e-4) -> tuple[jax.Array, jax.Array, jax.Array]:
  """VISReg's three terms (arXiv 2606.02572, eq. 6, 1 and 2-5): (mean of mu^2, mean of (std - 1)^2, sliced
  squared Wasserstein distance of the standardised embeddings from N(0, I)). Along random directions, sorted
  values are compared with the normal's quantiles at i / (N + 1). The distance has no gradient through std,
  and `eps` is the least std."""
  z = z_ND.astype(jnp.float32)
  # A floor, not a sum: the pull of (std - 1)^2 must not fade before the embeddings have collapsed.
  mean, deviation = z.mean(0), jnp.sqrt(jnp.maximum(z.var(0), eps**2))
  standard = (z - mean) / jax.lax.stop_gradient(deviation)
  along = jnp.matmul(standard, directions(key, z.shape[1], slices), precision="float32")
  quantiles = jax.scipy.special.ndtri(jnp.arange(1, len(z) + 1) / (len(z) + 1))
  shape = jnp.square(jnp.sort(along, 0) - quantiles[:, None]).mean()
  return jnp.square(mean).mean(), jnp.square(deviation - 1).mean(), shape
