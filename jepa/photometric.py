"""Photometric transforms: colour jitter, grey, blur and solarisation of images, on the device, as pure
functions of a key (SimCLR, arXiv 2002.05709, appendix A; solarisation: BYOL, arXiv 2006.07733, appendix B).

image [H W 3] in [0, 1] in and out. Inside, the three channels are planes of their own: arithmetic on arrays
whose last axis has length 3 is several times slower on CPUs.
"""
from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp
import numpy as np

_LUMA = (0.299, 0.587, 0.114)


def apply_photometric(key: jax.Array, image: jax.Array, *, brightness: float = 0.4, contrast: float = 0.4,
                      saturation: float = 0.2, hue: float = 0.1, jitter: float = 0.8, gray: float = 0.2,
                      blur: float = 0.5, blur_sigma: Sequence[float] = (0.1, 2.0),
                      solarize: float = 0.0) -> jax.Array:
  """Colour jitter, grey, blur and solarisation; `jitter`, `gray`, `blur`, `solarize` are probabilities,
  the rest strengths. What has probability or strength 0 costs nothing.

  Raises:
    ValueError: jitter or grey of images that are not RGB.
  """
  if (jitter or gray) and image.shape[-1] != 3:
    raise ValueError(f"colour jitter and grey need RGB, not {image.shape[-1]} channel(s): "
                     "set jitter = 0 and gray = 0 in photometric")

  def step(k, probability, transform, x):
    if not probability:
      return x
    k_whether, k_how = jax.random.split(k)
    return jnp.where(jax.random.bernoulli(k_whether, probability), transform(k_how, x), x)

  sigma = lambda k: jax.random.uniform(k, (), minval=blur_sigma[0], maxval=blur_sigma[1])
  keys = jax.random.split(key, 4)
  x = step(keys[0], jitter, lambda k, x: color_jitter(k, x, brightness, contrast, saturation, hue), image)
  x = step(keys[1], gray, lambda k, x: jnp.broadcast_to(luma(x), x.shape), x)
  x = step(keys[2], blur, lambda k, x: gaussian_blur(x, sigma(k)), x)
  return step(keys[3], solarize, lambda k, x: jnp.where(x >= 0.5, 1 - x, x), x)


def luma(image: jax.Array) -> jax.Array:
  """Grey level (ITU-R 601) [H W 1]."""
  return _luma(image[..., 0], image[..., 1], image[..., 2])[..., None]


def _luma(r, g, b):
  return _LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b


def color_jitter(key: jax.Array, image: jax.Array, brightness: float, contrast: float, saturation: float,
                 hue: float) -> jax.Array:
  """Brightness, contrast, saturation factors uniform in [max(0, 1 - s), 1 + s] and a hue shift in
  [-hue, hue], in an order uniform over all."""
  k_factor, k_shift, k_order = jax.random.split(key, 3)
  strengths = np.array([brightness, contrast, saturation])
  low = np.maximum(0, 1 - strengths)
  factors = low + jax.random.uniform(k_factor, (3,)) * (1 + strengths - low)
  shift = jax.random.uniform(k_shift, (), minval=-hue, maxval=hue) if hue else None
  order, turn = jitter_order(k_order, [i for i in range(3) if strengths[i]])
  return jitter_in_order(image, factors, shift, order, turn)


def jitter_order(key: jax.Array, kinds: Sequence[int]) -> tuple[jax.Array, jax.Array]:
  """(order [n], turn []): the n `kinds` shuffled, and how many of them come before the hue. All (n + 1)!
  orders are equally likely."""
  k_order, k_turn = jax.random.split(key)
  orders = np.array(list(itertools.permutations(kinds)), np.int32)
  return (jnp.asarray(orders)[jax.random.randint(k_order, (), 0, len(orders))],
          jax.random.randint(k_turn, (), 0, len(kinds) + 1))


def jitter_in_order(image: jax.Array, factors: jax.Array, shift: jax.Array | None, order: jax.Array,
                    turn: jax.Array) -> jax.Array:
  """Blends of the kinds `order` (0 brightness, 1 contrast, 2 saturation), f x + (1 - f) other clipped to
  [0, 1], where other is 0, the mean grey, the pixel's grey; and after `turn` of them the hue `shift`, unless
  None.

  Which comes when is data, and a branch on data runs all its sides under vmap. So each blend has a place
  before the hue and one after, and is the identity in one of the two.
  """
  def blend(x, place):
    kind, active = place
    rest = jnp.where(active, 1 - factors[kind], 0.0)
    grey = _luma(*x)
    other = jnp.where(kind == 2, rest, 0.0) * grey + jnp.where(kind == 1, rest, 0.0) * grey.mean()
    return jnp.clip((1 - rest) * x + other, 0.0, 1.0), None

  # A loop, since it computes x once a blend: unrolled, XLA fuses blends into their consumers, which compute
  # them again for every channel that they read.
  blends = lambda x, active: jax.lax.scan(blend, x, (order, active))[0]
  x = jnp.moveaxis(image, -1, 0)
  if shift is None:
    x = blends(x, jnp.ones(len(order), bool))
  else:
    early = jnp.arange(len(order)) < turn
    x = blends(_shift_hue(blends(x, early), shift), ~early)
  return jnp.moveaxis(x, 0, -1)


def shift_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
  """Hue moved by `shift` turns, in HSV."""
  return jnp.moveaxis(_shift_hue(jnp.moveaxis(image, -1, 0), shift), 0, -1)


def _shift_hue(x, shift):
  """x [3 H W] -> [3 H W]."""
  r, g, b = x
  high, low = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
  spread = high - low
  inverse = jnp.where(spread > 0, 1 / jnp.where(spread > 0, spread, 1.0), 0.0)
  # in sixths of a turn; grey pixels may have any hue, since their spread is 0
  h = jnp.where(high == r, (g - b) * inverse,
                jnp.where(high == g, (b - r) * inverse + 2, (r - g) * inverse + 4)) + 6 * shift

  def plane(start):
    k = start + h
    k -= 6 * jnp.floor(k / 6)                # a float remainder is a slow library call
    return high - spread * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)
  return jnp.stack([plane(5), plane(3), plane(1)])


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Separable blur, kernel of a tenth of the side (odd), edges reflected."""
  side = max(3, image.shape[0] // 10 | 1)
  offsets = jnp.arange(side) - side // 2
  kernel = jnp.exp(-0.5 * (offsets / sigma) ** 2)
  kernel /= kernel.sum()
  pad = side // 2
  x = jnp.pad(jnp.moveaxis(image, -1, 0), ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
  h, w, _ = image.shape
  x = sum(kernel[i] * x[:, i:i + h] for i in range(side))
  return jnp.moveaxis(sum(kernel[i] * x[..., i:i + w] for i in range(side)), 0, -1)
