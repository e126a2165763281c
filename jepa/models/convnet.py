"""BatchNorm, and a small convolutional encoder.

BatchNorm's running statistics are not parameters: they travel as `stats` (a method keeps them in `extra`). In
training the statistics are those of the global batch; evaluation uses the running ones.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jepa.types import Features, StatefulNet


class BatchNorm(nn.Module):
  """BatchNorm over all axes but the last; batch statistics in f32.
  Running statistics live in the collection "stats"."""

  train: bool
  momentum: float = 0.9
  affine: bool = True
  dtype: Any = jnp.float32
  scale_init: Any = nn.initializers.ones

  @nn.compact
  def __call__(self, x):
    d = x.shape[-1]
    mean = self.variable("stats", "mean", jnp.zeros, (d,))
    var = self.variable("stats", "var", jnp.ones, (d,))
    h = x.astype(jnp.float32)
    if self.train:
      axes = tuple(range(h.ndim - 1))
      m, v = h.mean(axes), h.var(axes)
      if not self.is_initializing():
        mean.value = self.momentum * mean.value + (1 - self.momentum) * m
        var.value = self.momentum * var.value + (1 - self.momentum) * v
    else:
      m, v = mean.value, var.value
    scale = jax.lax.rsqrt(v + 1e-5)
    shift = -m * scale
    if self.affine:
      gain = self.param("scale", self.scale_init, (d,))
      scale, shift = scale * gain, shift * gain + self.param("bias", nn.initializers.zeros, (d,))
    return (h * scale + shift).astype(self.dtype)


class ConvNet(nn.Module):
  """Convolution, BatchNorm, ReLU for each width; the mean over the last map is the pooled feature."""

  widths: Sequence[int]
  strides: Sequence[int]
  kernels: Sequence[int]
  train: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image):
    x = image.astype(self.dtype)
    for i, (width, stride, kernel) in enumerate(zip(self.widths, self.strides, self.kernels)):
      x = nn.Conv(width, (kernel,) * 2, (stride,) * 2, use_bias=False, dtype=self.dtype,
                  kernel_init=nn.initializers.he_normal(), name=f"conv{i}")(x)
      x = nn.relu(BatchNorm(self.train, dtype=self.dtype, name=f"norm{i}")(x))
    tokens = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
    return Features(tokens.mean(1), tokens)


def convnet(*, widths: Sequence[int] = (32, 64, 128, 128), strides: Sequence[int] = (1, 2, 2, 1),
            kernels: Sequence[int] = (), dtype: str = "float32") -> StatefulNet:
  """apply(params, stats, image [B H W C], train) -> (Features, stats).
  `kernels`: sides of the kernels, 3 by default.

  Raises:
    ValueError: widths, strides and kernels differ in number.
  """
  kernels = tuple(kernels) or (3,) * len(widths)
  if not len(widths) == len(strides) == len(kernels):
    raise ValueError(f"convnet: {len(widths)} widths, {len(strides)} strides and {len(kernels)} kernels; "
                     "give as many of each")
  return stateful(lambda train: ConvNet(tuple(widths), tuple(strides), kernels, train, jnp.dtype(dtype)))


def stateful(module) -> StatefulNet:
  """A Linen module, made by module(train), whose running statistics are in the collection "stats"."""
  def init(key, *inputs):
    variables = module(True).init(key, *inputs)
    return variables.get("params", {}), variables.get("stats", {})

  def apply(params, stats, *inputs, train):
    out, new = module(train).apply({"params": params, "stats": stats}, *inputs, mutable=["stats"])
    return out, new.get("stats", {}) if train else stats

  return StatefulNet(init, apply)
