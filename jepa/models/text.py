"""A small text transformer over bytes, for captions (CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343)."""
import jax
import jax.numpy as jnp

from jepa.models import layers as lib
from jepa.types import Net


def encoder(*, vocabulary: int, length: int = 64, width: int = 128, depth: int = 4, heads: int = 4,
            dtype: str = "float32") -> Net:
  """init(key) -> params; apply(params, text int32 [B L], 0 is padding) -> [B D], the mean over the text."""
  if width % heads:
    raise ValueError(f"text width {width} is not divisible by {heads} heads")
  compute = jnp.dtype(dtype)
  blocks = lib.stack(lib.net(lib.Block(heads, 4 * width, compute)), depth)
  norm = lib.net(lib.LayerNorm(compute))

  def init(key):
    keys = jax.random.split(key, 4)
    h = jnp.zeros((1, 1, width))
    return {"symbols": {"kernel": 0.02 * jax.random.normal(keys[0], (vocabulary, width))},
            "positions": 0.01 * jax.random.normal(keys[1], (length, width)),
            "blocks": blocks.init(keys[2], h), "norm": norm.init(keys[3], h)}

  def apply(params, text):
    valid = text > 0
    x = params["symbols"]["kernel"][text] + params["positions"][: text.shape[1]]
    x = norm.apply(params["norm"], blocks.apply(params["blocks"], x.astype(compute), valid, None))
    weight = valid[..., None].astype(jnp.float32)
    return (x.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1)

  return Net(init, apply)
