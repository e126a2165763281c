"""Terms of world models over trajectories of latent states z [B T D], statistics over the global batch."""
import jax
import jax.numpy as jnp

from jepa.losses import redundancy


def rollout_error(predicted: jax.Array, z_BTD: jax.Array) -> jax.Array:
  """Mean squared error of the states imagined from the first one, [B T-1 D], and those encoded."""
  return jnp.square(predicted.astype(jnp.float32) - z_BTD[:, 1:].astype(jnp.float32)).mean()


def smoothness(z_BTD: jax.Array) -> jax.Array:
  """Mean squared step of the state (PLDM, arXiv 2502.14819: temporal similarity)."""
  z = z_BTD.astype(jnp.float32)
  return jnp.square(z[:, 1:] - z[:, :-1]).mean()


def temporal_variance(z_BTD: jax.Array, *, margin: float = 1.0) -> jax.Array:
  """The variance term of VICReg along time: mean over trajectories and channels of
  max(0, margin - sqrt(Var + eps))."""
  return jax.vmap(lambda z_TD: redundancy.variance(z_TD, margin=margin))(z_BTD).mean()


def covariance(z_ND: jax.Array) -> jax.Array:
  """Mean square of the covariances of different channels: VICReg's term divided by D - 1, as PLDM has it."""
  return redundancy.covariance(z_ND) / max(1, z_ND.shape[-1] - 1)
