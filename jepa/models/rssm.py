"""The recurrent state-space model of Dreamer (PlaNet, arXiv 1811.04551; DreamerV3, arXiv 2301.04104): a
memory that is moved by a GRU, and a drawn state that is guessed from the memory (prior) or read off the
picture (posterior).

Shapes: h [B H] memory, z [B S*C] drawn state: S one-hot vectors of C classes, side by side; logits [B S C].
"""
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jepa.models import layers as lib
from jepa.types import Net


class Memory(nn.Module):
  """A GRU (arXiv 1406.1078) with a LayerNorm on its three maps, which starts out keeping what it has."""

  width: int

  @nn.compact
  def __call__(self, h, z, a):
    x = lib.Dense(self.width, name="in")(jnp.concatenate([z, a], -1))
    x = nn.silu(lib.LayerNorm(name="norm_in")(x))
    maps = lib.Dense(3 * h.shape[-1], name="maps")(jnp.concatenate([h, x], -1))
    maps = lib.LayerNorm(name="norm")(maps)
    reset, new, update = jnp.split(maps, 3, -1)
    update = nn.sigmoid(update - 1)
    return update * jnp.tanh(nn.sigmoid(reset) * new) + (1 - update) * h


class Logits(nn.Module):
  """Logits [B S C] of x [B D]: a hidden layer and a linear map; a share of the uniform law is mixed in."""

  width: int
  states: int
  classes: int
  uniform: float = 0.01

  @nn.compact
  def __call__(self, x):
    x = nn.silu(lib.LayerNorm(name="norm")(lib.Dense(self.width, name="hidden")(x)))
    x = lib.Dense(self.states * self.classes, name="out")(x).reshape(len(x), self.states, self.classes)
    return jnp.log((1 - self.uniform) * jax.nn.softmax(x) + self.uniform / self.classes)


class RSSM(NamedTuple):
  """The three nets."""

  memory: Net                       # (h, z, a) -> the next h
  prior: Net                        # (h) -> logits
  posterior: Net                    # (what is seen [B D]) -> logits


def make(*, memory: int = 256, hidden: int = 256, states: int = 16, classes: int = 16) -> RSSM:
  """Memory [B memory], `states` variables of `classes` classes. hidden: width of the layers between."""
  logits = lambda: lib.net(Logits(hidden, states, classes))
  return RSSM(lib.net(Memory(hidden)), logits(), logits())


def draw(key: jax.Array, logits_BSC: jax.Array) -> jax.Array:
  """One-hot z [B S*C]; its gradient is that of the probabilities (straight-through: DreamerV2, arXiv
  2010.02193)."""
  p = jnp.exp(logits_BSC)
  hot = jax.nn.one_hot(jax.random.categorical(key, logits_BSC), logits_BSC.shape[-1])
  return flat(p + jax.lax.stop_gradient(hot - p))


def mean(logits_BSC: jax.Array) -> jax.Array:
  """The probabilities, f32 [B S*C]."""
  return flat(jnp.exp(logits_BSC))


def kl(p_BSC: jax.Array, q_BSC: jax.Array) -> jax.Array:
  """KL(p || q) in nats, summed over the variables, [B], of normalised logits."""
  return (jnp.exp(p_BSC) * (p_BSC - q_BSC)).sum((-1, -2))


def flat(x_BSC):
  return x_BSC.reshape(*x_BSC.shape[:-2], -1)
