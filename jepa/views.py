"""Views: random transforms of images, on the device, as pure functions of a key.
Images are float in [0, 1], [B H W C].

A recipe is a function (key, images) -> groups: a tuple of arrays [V B h w C]; the first group holds the
global views, the others local ones. Every image and every view draws its own parameters.
"""
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Recipe = Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]


def make(*, kind: str, **args) -> Recipe:
  """A recipe by name: "affine", "crops"."""
  recipes = {"affine": affine_views, "crops": crop_views}
  if kind not in recipes:
    raise ValueError(f"view recipe {kind!r} is unknown; choose one of {', '.join(recipes)}")
  return recipes[kind](**args)


def to_float(image: jax.Array) -> jax.Array:
  """uint8 [..., C] -> f32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image.astype(jnp.float32)


def standardise(image: jax.Array, mean: float | Sequence[float], std: float | Sequence[float]) -> jax.Array:
  """(image - mean) / std, by channel."""
  return (image - jnp.asarray(mean)) / jnp.asarray(std)


def affine_views(*, count: int = 2, rotate: float = 20.0, scale: Sequence[float] = (0.8, 1.2),
                 shear: float = 10.0, translate: float = 0.1, elastic: float = 0.0, thickness: float = 0.0,
                 noise: float = 0.0, erase: float = 0.0) -> Recipe:
  """`count` random affine views.

  Args:
    rotate, shear, scale, translate, elastic: see `affine`. thickness: largest share of a dilation or erosion
      by one pixel.
    noise: standard deviation of added pixel noise. erase: largest side of an erased rectangle,
      as a share of the side.
  """
  def recipe(key, images):
    def view(k):
      k_warp, k_noise, k_erase, k_stroke = jax.random.split(k, 4)
      x = each(affine, k_warp, images, rotate=rotate, scale=tuple(scale), shear=shear, translate=translate,
               elastic=elastic)
      x = each(random_thickness, k_stroke, x, share=thickness) if thickness else x
      x = each(random_erase, k_erase, x, side=erase) if erase else x
      return x + noise * jax.random.normal(k_noise, x.shape) if noise else x
    return (jax.vmap(view)(jax.random.split(key, count)),)
  return recipe


def crop_views(*, count: int = 1, size: int, scale: Sequence[float] = (0.3, 1.0),
               aspect: Sequence[float] = (3 / 4, 4 / 3), flip: float = 0.5, local_count: int = 0,
               local_size: int = 0, local_scale: Sequence[float] = (0.05, 0.3),
               photometric: dict | None = None) -> Recipe:
  """Random resized crops: `count` global ones of `size` pixels and `local_count` of `local_size`,
  then flip and photometry.

  Args:
    scale, aspect: ranges of a crop's share of the area and of its width / height (torchvision's law).
      flip: probability.
    photometric: keyword arguments of `photometric`, or None.
  """
  def group(key, images, count, size, scale):
    def view(k):
      k_crop, k_flip, k_photo = jax.random.split(k, 3)
      x = each(random_resized_crop, k_crop, images, size=size, scale=tuple(scale), aspect=tuple(aspect))
      x = each(random_flip, k_flip, x, probability=flip) if flip else x
      return each(apply_photometric, k_photo, x, **photometric) if photometric is not None else x
    return jax.vmap(view)(jax.random.split(key, count))

  def recipe(key, images):
    k_global, k_local = jax.random.split(key)
    groups = (group(k_global, images, count, size, scale),)
    return groups + ((group(k_local, images, local_count, local_size, local_scale),) if local_count else ())
  return recipe


def each(transform, key, images, **args):
  """transform(key, image) over a batch, a key an image."""
  return jax.vmap(lambda k, x: transform(k, x, **args))(jax.random.split(key, images.shape[0]), images)


# Geometry. image [H W C] in, image out.


def affine(key: jax.Array, image: jax.Array, *, rotate: float, scale, shear: float, translate: float,
           elastic: float = 0.0) -> jax.Array:
  """Rotation, scale, shear and shift about the centre, bilinear, zeros outside.

  Args:
    rotate: largest angle, in degrees. scale: range of the zoom, log-uniform, drawn for each axis. shear:
      largest angle along each axis, in degrees. translate: largest shift, as a share of the side.
    elastic: standard deviation, as a share of the side, of a smooth displacement: noise on a 5 x 5 grid,
      cubic in between.
  """
  h, w, _ = image.shape
  k_affine, k_elastic = jax.random.split(key)
  u = jax.random.uniform(k_affine, (7,), minval=-1.0)
  angle = jnp.deg2rad(u[0] * rotate)
  slant_y, slant_x = jnp.tan(jnp.deg2rad(u[1:3] * shear))
  low, high = jnp.log(jnp.asarray(scale))
  zoom = jnp.exp(low + (u[3:5] + 1) / 2 * (high - low))
  rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
  # output coordinate -> input coordinate
  inverse = rotation @ jnp.array([[1.0, slant_y], [slant_x, 1.0]]) / zoom[:, None]
  centre, side = jnp.array([(h - 1) / 2, (w - 1) / 2]), jnp.array([h, w])
  grid = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1).reshape(-1, 2)
  source = (grid - centre - u[5:] * translate * side) @ inverse.T + centre
  if elastic:
    push = elastic * side * jax.random.normal(k_elastic, (5, 5, 2))
    source = source + jax.image.resize(push, (h, w, 2), "cubic").reshape(-1, 2)
  return _bilinear(image, source[:, 0], source[:, 1]).reshape(h, w, -1)


def _bilinear(image, y, x):
  """image [H W C] at float coordinates y, x [P] -> [P C]; zeros outside."""
  h, w, _ = image.shape
  y0, x0 = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
  fy, fx = (y - y0)[:, None], (x - x0)[:, None]
  padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
  at = lambda r, c: padded[jnp.clip(r + 1, 0, h + 1), jnp.clip(c + 1, 0, w + 1)]
  top = at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx
  bottom = at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
  return top * (1 - fy) + bottom * fy


def random_resized_crop(key: jax.Array, image: jax.Array, *, size: int, scale, aspect) -> jax.Array:
  """A crop of random area and aspect ratio, resized to size x size with antialiasing.

  As torchvision draws it: ten tries of area uniform and log aspect uniform, the first that fits;
  else a centre crop.
  """
  h, w, c = image.shape
  k_area, k_aspect, k_place = jax.random.split(key, 3)
  area = jax.random.uniform(k_area, (10,), minval=scale[0], maxval=scale[1]) * h * w
  ratio = jnp.exp(jax.random.uniform(k_aspect, (10,), minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1])))
  widths, heights = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
  fits = (widths <= w) & (heights <= h) & (widths > 0) & (heights > 0)
  first = jnp.argmax(fits)
  side_w = jnp.where(fits.any(), widths[first], jnp.minimum(w, jnp.round(h * aspect[1])))
  side_h = jnp.where(fits.any(), heights[first], jnp.minimum(h, jnp.round(w / aspect[0])))
  u, v = jax.random.uniform(k_place, (2,))
  centred = jnp.where(fits.any(), 0.0, 1.0)
  top = jnp.where(centred, jnp.round((h - side_h) / 2), jnp.floor(u * (h - side_h + 1)))
  left = jnp.where(centred, jnp.round((w - side_w) / 2), jnp.floor(v * (w - side_w + 1)))
  zoom = jnp.array([size / side_h, size / side_w])
  return crop_and_resize(image, jnp.array([top, left]), zoom, size)


def crop_and_resize(image: jax.Array, corner: jax.Array, zoom: jax.Array, size: int) -> jax.Array:
  """The crop whose top left is `corner` [2], enlarged by `zoom` [2] (bilinear, antialiased where it shrinks),
  size x size."""
  return jax.image.scale_and_translate(image, (size, size, image.shape[-1]), (0, 1), zoom, -corner * zoom,
                                       "linear")


def random_flip(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
  """Left-right mirror with the given probability."""
  return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def random_thickness(key: jax.Array, image: jax.Array, *, share: float) -> jax.Array:
  """Strokes thicker or thinner: the image mixed with its 3 x 3 maximum or minimum, by a weight uniform
  in [-share, share]."""
  window = dict(window_dimensions=(3, 3, 1), window_strides=(1, 1, 1), padding="SAME")
  thick = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, **window)
  thin = jax.lax.reduce_window(image, jnp.inf, jax.lax.min, **window)
  weight = jax.random.uniform(key, (), minval=-share, maxval=share)
  return jnp.where(weight > 0, image + weight * (thick - image), image - weight * (thin - image))


def random_erase(key: jax.Array, image: jax.Array, *, side: float) -> jax.Array:
  """Zeros in a rectangle whose sides are uniform in [0, side] of the image's."""
  h, w, _ = image.shape
  u = jax.random.uniform(key, (4,))
  eh, ew = u[0] * side * h, u[1] * side * w
  top, left = u[2] * (h - eh), u[3] * (w - ew)
  # centres: all are reached alike
  y, x = jnp.arange(h)[:, None, None] + 0.5, jnp.arange(w)[None, :, None] + 0.5
  return jnp.where((y >= top) & (y < top + eh) & (x >= left) & (x < left + ew), 0.0, image)


# Photometry. SimCLR's set (arXiv 2002.05709, appendix A) with BYOL's solarisation.
# image [H W 3] in [0, 1] in and out.

_LUMA = (0.299, 0.587, 0.114)


def apply_photometric(key: jax.Array, image: jax.Array, *, brightness: float = 0.4, contrast: float = 0.4,
                      saturation: float = 0.2, hue: float = 0.1, jitter: float = 0.8, gray: float = 0.2,
                      blur: float = 0.5, blur_sigma=(0.1, 2.0), solarize: float = 0.0) -> jax.Array:
  """Colour jitter, grey, blur and solarisation; `jitter`, `gray`, `blur`, `solarize` are probabilities,
  the rest strengths."""
  keys = jax.random.split(key, 5)
  sometimes = lambda k, p, new, old: jnp.where(jax.random.bernoulli(k, p), new, old)
  x = sometimes(keys[0], jitter, color_jitter(keys[1], image, brightness, contrast, saturation, hue), image)
  x = sometimes(keys[2], gray, jnp.broadcast_to(luma(x), x.shape), x)
  k_blur, k_sigma = jax.random.split(keys[3])
  if blur:
    sigma = jax.random.uniform(k_sigma, (), minval=blur_sigma[0], maxval=blur_sigma[1])
    x = sometimes(k_blur, blur, gaussian_blur(x, sigma), x)
  return sometimes(keys[4], solarize, jnp.where(x >= 0.5, 1 - x, x), x)


def luma(image: jax.Array) -> jax.Array:
  """Grey level (ITU-R 601) [H W 1]."""
  return (image * jnp.array(_LUMA)).sum(-1, keepdims=True)


def color_jitter(key: jax.Array, image: jax.Array, brightness, contrast, saturation, hue) -> jax.Array:
  """Brightness, contrast, saturation factors uniform in [max(0, 1 - s), 1 + s] and a hue shift in
  [-hue, hue], random order."""
  k_order, *keys = jax.random.split(key, 5)
  factor = lambda k, s: jax.random.uniform(k, (), minval=max(0.0, 1 - s), maxval=1 + s)
  b, c, s = (factor(k, v) for k, v in zip(keys, (brightness, contrast, saturation)))
  shift = jax.random.uniform(keys[3], (), minval=-hue, maxval=hue)
  blend = lambda x, other, f: jnp.clip(f * x + (1 - f) * other, 0.0, 1.0)
  steps = (lambda x: blend(x, 0.0, b), lambda x: blend(x, luma(x).mean(), c), lambda x: blend(x, luma(x), s),
           lambda x: shift_hue(x, shift))
  order = jax.random.permutation(k_order, 4)
  for i in range(4):
    image = jax.lax.switch(order[i], steps, image)
  return image


def shift_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
  """Hue moved by `shift` turns, in HSV."""
  r, g, b = image[..., 0], image[..., 1], image[..., 2]
  high, low = image.max(-1), image.min(-1)
  spread = high - low
  safe = jnp.where(spread > 0, spread, 1.0)
  h = (jnp.where(high == r, (g - b) / safe % 6, jnp.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
       / 6)
  h = (jnp.where(spread > 0, h, 0.0) + shift) % 1.0
  k = (jnp.array([5.0, 3.0, 1.0]) + h[..., None] * 6) % 6
  return high[..., None] - spread[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Separable blur, kernel of a tenth of the side (odd), edges reflected."""
  side = max(3, image.shape[0] // 10 | 1)
  offsets = jnp.arange(side) - side // 2
  kernel = jnp.exp(-0.5 * (offsets / sigma) ** 2)
  kernel /= kernel.sum()
  pad = side // 2
  x = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
  h, w, _ = image.shape
  x = sum(kernel[i] * x[i:i + h] for i in range(side))
  return sum(kernel[i] * x[:, i:i + w] for i in range(side))
