"""Decoders from representations to images: a ViT on the grid that an encoder's tokens make, and one of
convolutions."""
from collections.abc import Mapping, Sequence
import math

import flax.linen as nn
import jax

from jepa.models import layers as lib, vit
from jepa.types import Net


def decoder(image: jax.Array, tokens: jax.Array, args: Mapping, inputs: int = 0) -> Net:
  """init(key) -> params; apply(params, z) -> images [B H W C], of tokens z [B N D], or of one vector an image
  z [B inputs].

  Args:
    image, tokens: an image [B H W C] and an encoder's tokens [B N D], for their shapes: N is a square grid.
    args: keyword arguments of vit.decoder. inputs: width of z where z is not the tokens.

  Raises:
    ValueError: the image is not square, or the tokens are no square grid that divides it.
  """
  _, h, w, c = image.shape
  side = math.isqrt(tokens.shape[1])
  if h != w or side * side != tokens.shape[1] or h % side:
    raise ValueError("a decoder needs tokens on a square grid that divides a square image; "
                     f"{tokens.shape[1]} tokens of an image {h}x{w} are none: choose another patch, stride "
                     "or image size")
  p = h // side
  net = vit.decoder(inputs=inputs or tokens.shape[-1], outputs=p * p * c, **args)

  def apply(params, z):
    x = net.apply(params, z, (side, side)).reshape(-1, side, side, p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)

  return Net(net.init, apply)


class Upward(nn.Module):
  """The stages of impala.Impala, backwards: a linear map to the smallest map, then convolutions whose 4 W
  channels are the W channels of a map of twice the side (sub-pixel convolution, arXiv 1609.05158), cut to its
  size."""

  shape: Sequence[int]
  widths: Sequence[int]

  @nn.compact
  def __call__(self, z):
    h, w, c = self.shape
    sizes = [(-(-h // 2**k), -(-w // 2**k)) for k in range(len(self.widths), -1, -1)]
    x = lib.Dense(math.prod(sizes[0]) * self.widths[0], name="in")(z)
    x = x.reshape(-1, *sizes[0], self.widths[0])
    for i, (size, width) in enumerate(zip(sizes[1:], (*self.widths[1:], c))):
      x = nn.Conv(4 * width, (3, 3), kernel_init=nn.initializers.he_normal(), name=f"conv{i}")(nn.relu(x))
      b, rows, columns, _ = x.shape
      x = x.reshape(b, rows, columns, 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
      x = x.reshape(b, 2 * rows, 2 * columns, width)[:, :size[0], :size[1]]
    return x


def convolutional(*, shape: Sequence[int], widths: Sequence[int] = (32, 16, 8)) -> Net:
  """apply(params, z [B D]) -> images f32 [B H W C].

  Args:
    shape: H W C. widths: channels of each map, the smallest first, each of half the side of the next.
  """
  return lib.net(Upward(tuple(shape), tuple(widths)))
