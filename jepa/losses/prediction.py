"""Distances between predicted and target representations, over valid tokens only."""
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
  return jnp.where(valid, value, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def layer_norm(x: jax.Array, eps: float = 1e-5) -> jax.Array:
  """LayerNorm over channels without scale or bias, in f32: the normalisation of targets."""
  x = x.astype(jnp.float32)
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)
