"""An encoder of small pictures in matrix products alone: a linear map of each patch, then hidden layers of all of them
at once. No convolution, whose gradients a CPU is slow at: in Two Rooms it learns from four times the pictures a second
of `impala` with strides.

Shapes: images [B H W C] -> [B D].
"""
import flax.linen as nn
import jax.numpy as jnp

from jepa.models import layers as lib
from jepa.types import Net


class Patches(nn.Module):
  """Patches -> relu -> `depth` hidden layers with LayerNorm -> a linear map and a LayerNorm."""

  patch: int
  width: int
  hidden: int
  depth: int
  outputs: int

  @nn.compact
  def __call__(self, image):
    b, h, w, c = image.shape
    p = self.patch
    x = image.astype(jnp.float32).reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)
    x = nn.relu(lib.Dense(self.width, name="patch")(x)).reshape(b, -1)
    for i in range(self.depth):
      x = nn.relu(lib.LayerNorm(jnp.float32, name=f"norm{i}")(lib.Dense(self.hidden, name=f"hidden{i}")(x)))
    return lib.LayerNorm(jnp.float32, name="norm")(lib.Dense(self.outputs, name="out")(x))


def patches(*, patch: int = 5, width: int = 16, hidden: int = 256, depth: int = 2, outputs: int = 512) -> Net:
  """apply(params, image [B H W C]) -> f32 [B outputs].

  Args:
    patch: pixels a side. width: features of each patch. hidden, depth: width and number of hidden layers.

  Raises:
    ValueError: when called, a picture that patches do not divide.
  """
  net = lib.net(Patches(patch, width, hidden, depth, outputs))

  def checked(image):
    if image.shape[1] % patch or image.shape[2] % patch:
      raise ValueError(f"pictures of {image.shape[1]} x {image.shape[2]} do not split into patches of {patch}; choose "
                       "a divisor (config.args.encoder.patch)")
    return image

  return Net(lambda key, image: net.init(key, checked(image)),
             lambda params, image: net.apply(params, checked(image)))
