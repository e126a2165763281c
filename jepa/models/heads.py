"""Heads above an encoder: the projectors, predictors and expanders of joint embedding, prototypes, linear
maps."""
from collections.abc import Sequence

import flax.linen as nn
import jax

from jepa.losses.prediction import unit
from jepa.models.convnet import BatchNorm, stateful
from jepa.models.layers import ACTIVATIONS
from jepa.types import Net, StatefulNet

LAST = ("plain", "batch", "unscaled")


class MLP(nn.Module):
  """Dense, BatchNorm, activation for each hidden width, then Dense and what `last` says."""

  widths: Sequence[int]
  train: bool
  norm: bool = True
  last: str = "plain"
  bias: bool = True
  activation: str = "relu"

  @nn.compact
  def __call__(self, x):
    if not self.widths:
      return x
    for i, width in enumerate(self.widths[:-1]):
      x = nn.Dense(width, use_bias=not self.norm, name=f"hidden{i}")(x)
      x = BatchNorm(self.train, name=f"norm{i}")(x) if self.norm else x
      x = ACTIVATIONS[self.activation](x)
    x = nn.Dense(self.widths[-1], use_bias=self.bias and self.last == "plain", name="out")(x)
    return x if self.last == "plain" else BatchNorm(self.train, affine=self.last == "batch", name="last")(x)


def mlp(*, widths: Sequence[int] = (512, 64), norm: bool = True, last: str = "plain", bias: bool = True,
        activation: str = "relu") -> StatefulNet:
  """apply(params, stats, x [B D], train) -> ([B widths[-1]], stats). One width is a linear map, none the
  identity.

  Args:
    norm: BatchNorm after each hidden product. last: after the last one nothing ("plain"), BatchNorm
      ("batch"), or BatchNorm without scale and bias ("unscaled"). bias: of a plain last product.
    activation: "relu" or "gelu".
  """
  for name, value, known in (("last", last, LAST), ("activation", activation, ACTIVATIONS)):
    if value not in known:
      raise ValueError(f"head: {name} {value!r} is unknown; choose one of {', '.join(known)}")
  return stateful(lambda train: MLP(tuple(widths), train, norm, last, bias, activation))


def linear(width: int) -> Net:
  """x [... D] @ kernel + bias -> [... width]."""
  module = nn.Dense(width)
  return Net(lambda key, x: module.init(key, x)["params"],
             lambda params, x: module.apply({"params": params}, x))


def prototypes(count: int) -> StatefulNet:
  """Cosines of x [B D] with `count` learned directions: [B count] (SwAV, arXiv 2006.09882; DINO's
  weight-normalised last layer, arXiv 2104.14294)."""
  def init(key, x):
    return {"kernel": jax.random.normal(key, (x.shape[-1], count)) / x.shape[-1] ** 0.5}, {}

  def apply(params, stats, x, train):
    del train
    return unit(x) @ unit(params["kernel"], 0), stats

  return StatefulNet(init, apply)
