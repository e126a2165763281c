"""Decoders from representations to images, on the grid that an encoder's tokens make."""
from collections.abc import Mapping
import math

import jax

from jepa.models import vit
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
