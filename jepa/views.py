"""Views: random transforms of images, on the device, as pure functions of a key: recipes, and the geometry in
them; colour is in photometric.py. Images are float in [0, 1], [B H W C].

A recipe is a function (key, images) -> groups: a tuple of arrays [V B h w C]; the first group holds the
global views, the others local ones. Every image and every view draws its own parameters.
"""
from collections.abc import Callable, Mapping, Sequence
import functools
import inspect

import jax
import jax.numpy as jnp

from jepa.photometric import apply_photometric

Recipe = Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]

_COLOR = dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, jitter=0.8, gray=0.2)

# BYOL's two views differ (arXiv 2006.07733, appendix B).
_FIRST, _SECOND = dict(**_COLOR, blur=1.0), dict(**_COLOR, blur=0.1, solarize=0.2)

# Keyword arguments of `crop_views` as published, but for the size, which is 224 in all of them.
PUBLISHED: dict[str, dict] = {
    # arXiv 2002.05709, appendix A: colour strength 1.
    "simclr": dict(count=2, scale=(0.08, 1.0), photometric=dict(
        brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=0.8, gray=0.2, blur=0.5)),
    # arXiv 2003.04297, section 3, and its code; SimSiam (arXiv 2011.10566, section 3) takes the same.
    "mocov2": dict(count=2, scale=(0.2, 1.0), photometric=dict(
        brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.2, blur=0.5)),
    # arXiv 2007.06346, section 4.2: for 32 pixels, so without blur.
    "wmse": dict(count=2, scale=(0.2, 1.0), photometric=dict(
        brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.1, blur=0.0)),
    # arXiv 2006.07733, appendix B; Barlow Twins and VICReg take the same.
    "byol": dict(count=2, scale=(0.08, 1.0), photometric=(_FIRST, _SECOND)),
    # arXiv 2104.02057: BYOL's. Its ResNet-50 crops (0.2, 1).
    "mocov3": dict(count=2, scale=(0.08, 1.0), photometric=(_FIRST, _SECOND)),
    # arXiv 2104.14294: BYOL's pair, and local crops blurred half of the time.
    "dino": dict(count=2, scale=(0.4, 1.0), photometric=(_FIRST, _SECOND), local_count=8, local_size=96,
                 local_scale=(0.05, 0.4), local_photometric=dict(**_COLOR, blur=0.5)),
    # arXiv 2111.06377: no photometry.
    "mae": dict(count=1, scale=(0.2, 1.0)),
    # arXiv 2511.08544. The released Imagenette example has colour strengths 0.8, 0.8, 0.8, 0.2.
    "lejepa": dict(count=2, scale=(0.3, 1.0), photometric=dict(**_COLOR, blur=0.5, solarize=0.2),
                   local_count=6, local_size=98, local_scale=(0.05, 0.3)),
    # arXiv 1409.4842, and every ResNet since.
    "supervised": dict(count=1, scale=(0.08, 1.0)),
}


def make(*, kind: str, **args) -> Recipe:
  """A recipe by name: "affine", "crops", "given", or a row of `PUBLISHED` (see `published`).
  It takes images of uint8 as well.

  Raises:
    ValueError: an unknown name.
  """
  recipes = {"affine": affine_views, "crops": crop_views, "given": given_views,
             **{name: functools.partial(published, name) for name in PUBLISHED}}
  if kind not in recipes:
    raise ValueError(f"view recipe {kind!r} is unknown; choose one of {', '.join(recipes)}")
  recipe = recipes[kind](**args)
  return lambda key, images: recipe(key, to_float(images))


def published(kind: str, /, *, size: int, small: bool = False, **overrides) -> Recipe:
  """`crop_views` with the row `kind` of `PUBLISHED`, whose fields `overrides` replace.

  Args:
    size: of the global crops, in pixels.
    small: no blur, as recipes for 32 pixels have it: a tenth of the side would be a kernel of 3. (SimCLR's
      CIFAR-10 recipe also halves the colour strength: 2002.05709, B.9.)
  """
  fields = PUBLISHED[kind] | overrides
  if small:
    sharp = lambda p: dict(p, blur=0.0) if isinstance(p, Mapping) else p and [sharp(q) for q in p]
    fields |= {k: sharp(fields[k]) for k in ("photometric", "local_photometric") if k in fields}
  return crop_views(size=size, **fields)


def to_float(image: jax.Array) -> jax.Array:
  """uint8 [..., C] -> f32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image.astype(jnp.float32)


def standardise(image: jax.Array, mean: float | Sequence[float], std: float | Sequence[float]) -> jax.Array:
  """(image - mean) / std by channel, of an image in [0, 1] or uint8."""
  return (to_float(image) - jnp.asarray(mean)) / jnp.asarray(std)


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
               photometric: Mapping | Sequence[Mapping | None] | None = None,
               local_photometric: Mapping | None = None) -> Recipe:
  """Random resized crops: `count` global ones of `size` pixels and `local_count` of `local_size`,
  then flip and photometry.

  Args:
    scale, aspect: ranges of a crop's share of the area and of its width / height (torchvision's law).
      flip: probability. A crop may have fewer pixels than `size`; it is then enlarged.
    photometric: keyword arguments of `apply_photometric`, or None for none; a sequence has one for each
      global view. local_photometric: of the local views; None is the last of `photometric`.

  Raises:
    ValueError: sizes, ranges or the number of photometric sets do not fit; names the field.
  """
  _check_range("scale", scale)
  if local_count:
    _check_range("local_scale", local_scale)
    if not 0 < local_size <= size:
      raise ValueError(f"local_size = {local_size} of {local_count} local views beside global ones of {size} "
                       "pixels: must be in 1 .. size; set local_size, or local_count = 0 for no local views")
  sets = ([photometric] * count if photometric is None or isinstance(photometric, Mapping)
          else list(photometric))
  if len(sets) != count:
    raise ValueError(f"photometric has {len(sets)} sets for {count} global views: give one for each, "
                     "or a single one for all")
  local_sets = [sets[-1] if local_photometric is None else local_photometric] * local_count
  for chosen in sets + local_sets:
    _check_photometric(chosen)

  def group(key, images, sets, size, scale):
    def geometry(k):
      k_crop, k_flip = jax.random.split(k)
      x = each(random_resized_crop, k_crop, images, size=size, scale=tuple(scale), aspect=tuple(aspect))
      return each(random_flip, k_flip, x, probability=flip) if flip else x

    color = lambda k, x, chosen: x if chosen is None else each(apply_photometric, k, x, **chosen)
    k_geometry, k_color = (jax.random.split(k, len(sets)) for k in jax.random.split(key))
    x = jax.vmap(geometry)(k_geometry)
    if all(s == sets[0] for s in sets):      # traced and compiled once
      return jax.vmap(lambda k, v: color(k, v, sets[0]))(k_color, x)
    return jnp.stack([color(k, v, s) for k, v, s in zip(k_color, x, sets)])

  def recipe(key, images):
    k_global, k_local = jax.random.split(key)
    groups = (group(k_global, images, sets, size, scale),)
    return groups + ((group(k_local, images, local_sets, local_size, local_scale),) if local_sets else ())
  return recipe


def given_views() -> Recipe:
  """Views that the loader made: images [B V h w C] -> one group [V B h w C]."""
  return lambda key, images: (jnp.moveaxis(images, 1, 0),)


def _check_range(name, share):
  low, high = share
  if not 0 < low <= high <= 1:
    raise ValueError(f"{name} = ({low}, {high}): shares of the image's area, so 0 < low <= high <= 1")


def _check_photometric(chosen):
  known = list(inspect.signature(apply_photometric).parameters)[2:]
  if unknown := sorted(set(chosen or ()) - set(known)):
    raise ValueError(f"photometric has no option {', '.join(unknown)}; choose among {', '.join(known)}")


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
  return crop_and_resize(image, jnp.array([top, left]), jnp.array([side_h, side_w]), size)


def crop_and_resize(image: jax.Array, corner: jax.Array, sides: jax.Array, size: int) -> jax.Array:
  """The box of `sides` [2] pixels whose top left is `corner` [2], cut out and then resized to size x size:
  bilinear, antialiased where it shrinks. No pixel outside the box is read."""
  rows, columns = (_resize_weights(image.shape[i], corner[i], sides[i], size) for i in range(2))
  out = jnp.einsum("sh,hwc,tw->cst", rows, image, columns, precision=jax.lax.Precision.HIGHEST)
  return jnp.moveaxis(out, 0, -1)            # planes, as photometry takes them


def _resize_weights(length, start, side, size):
  """[size length]: output pixel i as an average of the pixels start .. start + side - 1 of `length`, by a
  triangle as wide as an output pixel, or as an input pixel where that is wider."""
  stretch = side / size
  centres = start + (jnp.arange(size) + 0.5) * stretch
  pixels = jnp.arange(length) + 0.5
  weights = jnp.maximum(0.0, 1 - jnp.abs(pixels - centres[:, None]) / jnp.maximum(stretch, 1.0))
  weights = jnp.where((pixels > start) & (pixels < start + side), weights, 0.0)
  return weights / weights.sum(1, keepdims=True)


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
