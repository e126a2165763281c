"""Losses in pixels, and the terms of generative models."""
import jax
import jax.numpy as jnp


def normalise_patches(x_BNP: jax.Array, eps: float = 1e-6) -> jax.Array:
  """Each patch less its mean, divided by its standard deviation (MAE, arXiv 2111.06377, section 3)."""
  x = x_BNP.astype(jnp.float32)
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, ddof=1, keepdims=True) + eps)


def squared(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Squared error [...] of [... P], the mean over P."""
  return jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)


def absolute(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Absolute error [...] of [... P], the mean over P."""
  return jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)


def gaussian_kl(mean_BZ: jax.Array, log_variance_BZ: jax.Array) -> jax.Array:
  """KL of N(mean, variance) from N(0, I) in nats, summed over Z, the mean over B (VAE, arXiv 1312.6114,
  appendix B)."""
  mean_BZ, log_variance_BZ = mean_BZ.astype(jnp.float32), log_variance_BZ.astype(jnp.float32)
  return 0.5 * (jnp.square(mean_BZ) + jnp.exp(log_variance_BZ) - 1 - log_variance_BZ).sum(-1).mean()


def adversarial(real_B: jax.Array, fake_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(discriminator's loss, the others') of logits (BiGAN, arXiv 1605.09782, section 3: the discriminator
  tells pairs (x, E(x)) from pairs (G(z), z); encoder and generator learn with the opposite labels)."""
  positive = lambda logit: jax.nn.softplus(-logit.astype(jnp.float32)).mean()
  return positive(real_B) + positive(-fake_B), positive(-real_B) + positive(fake_B)
