"""Distances between predicted and target representations; of tokens, over the valid ones only."""
import jax
import jax.numpy as jnp


def smooth_l1(prediction: jax.Array, target: jax.Array, valid: jax.Array, *, beta: float = 1.0) -> jax.Array:
  """Smooth L1 (Huber divided by beta; I-JEPA's released loss uses beta 1; the paper writes L2).

  Args:
    prediction, target: [... D]
    valid: bool [...]; the mean is over images' valid tokens and channels.
  """
  error = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))
  value = jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta).mean(-1)
  return masked_mean(value, valid)


def masked_mean(value: jax.Array, valid: jax.Array) -> jax.Array:
  """Mean of `value` where `valid`."""
  return jnp.where(valid, value.astype(jnp.float32), 0.0).sum() / jnp.maximum(valid.sum(), 1)


def layer_norm(x: jax.Array, eps: float = 1e-5) -> jax.Array:
  """LayerNorm over channels without scale or bias, in f32: the normalisation of targets."""
  x = x.astype(jnp.float32)
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)


def centre(h_BND: jax.Array, eps: float = 1e-2) -> jax.Array:
  """Targets without what is easy to say of them: the mean over the global batch at each position and the mean
  over the tokens of each image are taken away, and each channel is brought to unit variance over all that is
  left."""
  h = h_BND.astype(jnp.float32)
  h = h - h.mean(0)
  h = h - h.mean(1, keepdims=True)
  return h * jax.lax.rsqrt(jnp.square(h).mean((0, 1)) + eps)


def shares(h_BND: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(position, image): shares of the variance of tokens that the mean at their position and the mean of their
  image explain. A target that is mostly position is predicted without looking; one that is mostly image has
  lost its places."""
  h = h_BND.astype(jnp.float32)
  h = h - h.mean((0, 1))
  total = jnp.square(h).mean()
  return jnp.square(h.mean(0)).mean() / total, jnp.square(h.mean(1)).mean() / total


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
  """x in f32, scaled to length one along `axis`; its gradient is finite at zero."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), 1e-12))


def normalised_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Squared distance of [... D] scaled to length one, 2 - 2 cos, the mean over [...]: BYOL's mean squared
  error of normalised vectors (arXiv 2006.07733, eq. 2). 0 where they point the same way, 4 where they are
  opposite."""
  return (2 - 2 * (unit(prediction) * unit(target)).sum(-1)).mean()


def spread(z_VBD: jax.Array) -> jax.Array:
  """Standard deviation over the batch of embeddings of length one, times sqrt(D): about 1 where they fill
  the sphere, 0 at a constant (the diagnostic of SimSiam, arXiv 2011.10566, figure 2)."""
  z = unit(z_VBD)
  return z.std(1).mean() * z.shape[-1] ** 0.5
