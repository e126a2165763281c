"""Random transforms of images against slicing, scipy.ndimage, colorsys and NumPy simulations of the laws."""
import colorsys
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jepa import photometric, views
from tests import laws

KEY = jax.random.key(0)


def images(n=1, h=16, w=16, c=3, seed=0):
  return np.random.default_rng(seed).random((n, h, w, c), np.float32)


def each(function, n, image, **args):
  """function(key, image) for n keys, as NumPy."""
  return np.asarray(
      jax.jit(lambda keys: jax.vmap(lambda k: function(k, image, **args))(keys))(jax.random.split(KEY, n)))


# Geometry.


@functools.cache
def _warp():
  warp = lambda key, image, **args: views.affine(key, image, **args)
  return jax.jit(lambda keys, image, **args: jax.vmap(lambda k: warp(k, image, **args))(keys))


def warped(*, n=200, h=24, w=20, rotate=0.0, scale=(1.0, 1.0), shear=0.0, translate=0.0):
  """(image, warps, matrices, offsets): the channels are the coordinates, 1 and noise; the first three tell
  the matrix that takes an output coordinate to its source."""
  y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
  image = np.stack([y, x, np.ones((h, w)), images(1, h, w, 1)[0, ..., 0]], -1).astype(np.float32)
  out = np.asarray(_warp()(jax.random.split(KEY, n), image, rotate=rotate, scale=jnp.array(scale),
                           shear=shear, translate=translate))
  solutions = []
  for o in out:
    inside = ndimage.binary_erosion(o[..., 2] > 0.999, border_value=1)
    a = np.stack([y[inside], x[inside], np.ones(inside.sum())], -1)
    solutions.append(np.linalg.lstsq(a, o[inside][:, :2].astype(np.float64), rcond=None)[0])
  solutions = np.array(solutions)
  return image, out, solutions[:, :2].swapaxes(1, 2), solutions[:, 2]


def test_affine_is_a_bilinear_warp_with_zeros_outside():
  image, out, matrices, offsets = warped(n=20, rotate=20.0, scale=(0.8, 1.25), shear=10.0, translate=0.1)
  assert np.abs(matrices - np.eye(2)).max((1, 2)).min() > 0.02
  for o, m, b in zip(out, matrices, offsets):
    expected = ndimage.affine_transform(image[..., 3], m, b, order=1, mode="grid-constant", cval=0.0)
    np.testing.assert_allclose(o[..., 3], expected, atol=2e-3)


def uniform(values, low, high):
  return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_affine_draws_rotation_and_zoom_uniformly_and_each_axis_on_its_own():
  image, _, matrices, offsets = warped(rotate=20.0, scale=(0.8, 1.25), translate=0.1)
  zoom = 1 / np.linalg.norm(matrices, axis=-1)      # each row is one axis of a rotation, divided by its zoom
  rotation = matrices * zoom[:, :, None]
  np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.broadcast_to(np.eye(2), rotation.shape),
                             atol=2e-3)
  angle = np.degrees(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
  centre = (np.array(image.shape[:2]) - 1) / 2      # where the input's centre lands, as a share of the side
  shift = np.array([np.linalg.solve(m, centre - b) for m, b in zip(matrices, offsets)]) - centre
  shift /= image.shape[:2]
  assert uniform(angle, -20, 20) and all(uniform(np.log(z), np.log(0.8), np.log(1.25)) for z in zoom.T)
  assert all(uniform(s, -0.1, 0.1) for s in shift.T)
  draws = np.stack([angle, *zoom.T, *shift.T])
  assert np.abs(np.corrcoef(draws) - np.eye(5)).max() < 0.3, "two parameters share their draw"


def test_affine_shears_both_axes():
  _, _, matrices, _ = warped(shear=10.0)
  np.testing.assert_allclose(matrices[:, [0, 1], [0, 1]], 1, atol=1e-3)
  slants = np.degrees(np.arctan(matrices[:, [0, 1], [1, 0]]))
  assert all(uniform(s, -10, 10) for s in slants.T) and abs(np.corrcoef(slants.T)[0, 1]) < 0.3


def test_elastic_displacement_is_smooth_and_of_the_stated_size():
  h = w = 24
  image = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).astype(np.float32)
  still = dict(rotate=0.0, scale=(1.0, 1.0), shear=0.0, translate=0.0)
  push = (each(views.affine, 300, image, **still, elastic=0.03) - image)[:, 5:-5, 5:-5]
  assert 0.5 * 0.03 * h < push.std() < 1.1 * 0.03 * h
  assert abs(push.mean()) < 0.2 * push.std()
  assert np.abs(np.diff(push, axis=1)).mean() < 0.4 * push.std()     # neighbours move together
  assert abs(np.corrcoef(push[:, 7, 7].T)[0, 1]) < 0.25


def test_crop_of_a_known_box_is_slicing_and_then_resizing():
  image = images(1, 14, 20)[0]
  crop = jax.jit(views.crop_and_resize, static_argnums=3)
  box = lambda top, left, side, size: np.asarray(crop(image, jnp.array([top, left]), jnp.full(2, side), size))
  np.testing.assert_allclose(box(3.0, 7.0, 8.0, 8), image[3:11, 7:15], atol=1e-6)
  # Shrunk to half with antialiasing: the triangle kernel of width 2 has weights 1, 3, 3, 1; at the edge of
  # the box, not of the image, the outer one is cut off and the others grow to a sum of 1.
  weights = np.zeros((4, 8))
  for i in range(4):
    for j, w in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1)):
      if 0 <= j < 8:
        weights[i, j] = w
  weights /= weights.sum(1, keepdims=True)
  expected = np.einsum("sh,hwc,tw->stc", weights, image[2:10, 4:12], weights)
  np.testing.assert_allclose(box(2.0, 4.0, 8.0, 4), expected, atol=1e-5)
  # Enlarged twice: bilinear, output centres at quarters of a pixel, held at the outer pixels' centres.
  at = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
  expected = ndimage.map_coordinates(image[5:8, 5:8, 1], np.meshgrid(at, at, indexing="ij"), order=1)
  np.testing.assert_allclose(box(5.0, 5.0, 3.0, 6)[..., 1], expected, atol=1e-5)


def test_a_crop_reads_nothing_outside_its_box():
  inside = np.zeros((16, 16, 3), np.float32)
  inside[4:11, 6:9] = 1
  crop = jax.jit(views.crop_and_resize, static_argnums=3)
  for size in (3, 5, 20):
    out = crop(inside, jnp.array([4.0, 6.0]), jnp.array([7.0, 3.0]), size)
    np.testing.assert_allclose(out, np.ones((size, size, 3)), atol=1e-6)


def torchvision_box(rng, h, w, scale, aspect):
  """(top, left, height, width) as torchvision's RandomResizedCrop draws it."""
  for _ in range(10):
    area = h * w * rng.uniform(*scale)
    ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
    width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < width <= w and 0 < height <= h:
      return rng.integers(h - height + 1), rng.integers(w - width + 1), height, width
  if w / h < aspect[0]:
    width, height = w, round(w / aspect[0])
  elif w / h > aspect[1]:
    width, height = round(h * aspect[1]), h
  else:
    width, height = w, h
  return (h - height) // 2, (w - width) // 2, height, width


def crop_boxes(n, h, w, scale, aspect):
  """(top, left, height, width) [n 4] of our crops, read off an image of coordinates."""
  image = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).astype(np.float32)
  size = max(h, w)      # never shrunk: plain bilinear, exact on coordinates
  out = each(views.random_resized_crop, n, image, size=size, scale=scale, aspect=aspect).astype(np.float64)
  near, far = size // 4, 3 * size // 4                             # two pixels that no border touches
  a, b = out[:, near, near], out[:, far, far]
  side = (b - a) * size / (far - near)
  corner = a + 0.5 - (near + 0.5) * side / size
  boxes = np.concatenate([corner, side], -1)
  np.testing.assert_allclose(boxes, np.round(boxes), atol=0.02)
  return np.round(boxes).astype(int)


@pytest.mark.parametrize("h,w,scale", [(32, 40, (0.3, 1.0)), (24, 24, (0.05, 0.4))])
def test_crops_obey_the_published_law(h, w, scale):
  n, aspect, rng = 5000, (3 / 4, 4 / 3), np.random.default_rng(1)
  ours = crop_boxes(n, h, w, scale, aspect)
  assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= [h, w]).all()
  theirs = np.array([torchvision_box(rng, h, w, scale, aspect) for _ in range(n)])
  area, ratio = (lambda b: b[:, 2] * b[:, 3]), (lambda b: b[:, 3] / b[:, 2])
  room = lambda b: np.array([h, w]) - b[:, 2:] + 1
  moments = lambda b: np.stack(
      [area(b), area(b) ** 2, np.log(ratio(b)), np.log(ratio(b)) ** 2, *(b[:, :2] / room(b)).T,
       *((b[:, :2] + 1) / room(b)).T ** 2, *(b[:, :2] == 0).T, *(b[:, :2] + 1 == room(b)).T], -1)
  assert stats.ks_2samp(area(ours), area(theirs)).pvalue > 1e-3
  assert stats.ks_2samp(ratio(ours), ratio(theirs)).pvalue > 1e-3
  assert laws.same_mean(moments(ours), moments(theirs)) > 1e-3
  # Two near misses that must not pass: an aspect ratio uniform itself, and an exclusive bound of the place.
  wrong = [torchvision_box(rng, h, w, scale, np.exp(aspect)) for _ in range(n)]
  assert laws.same_mean(moments(ours), moments(np.array(wrong))) < 1e-6
  short = theirs.copy()
  short[:, :2] = rng.integers(np.maximum(1, room(theirs) - 1))
  assert laws.same_mean(moments(ours), moments(short)) < 1e-6


def test_an_image_too_narrow_for_its_crops_is_cut_at_its_centre():
  h, w, scale, aspect = 12, 60, (0.9, 1.0), (3 / 4, 4 / 3)
  expected = torchvision_box(np.random.default_rng(0), h, w, scale, aspect)
  for box in crop_boxes(8, h, w, scale, aspect):
    np.testing.assert_array_equal(box, expected)


def test_flip_mirrors_left_and_right_as_often_as_told():
  image = images()[0]
  out = each(views.random_flip, 2000, image, probability=0.3)
  mirrored = (out == image[:, ::-1]).all((1, 2, 3))
  assert (mirrored | (out == image).all((1, 2, 3))).all()
  assert stats.binomtest(int(mirrored.sum()), 2000, 0.3).pvalue > 1e-3


def test_erased_is_a_rectangle_of_zeros_up_to_its_side():
  image = images(1, 20, 30)[0] + 0.1
  out = each(views.random_erase, 2000, image, side=0.4)
  gone = (out == 0).all(-1)
  np.testing.assert_array_equal(out, np.where(gone[..., None], 0, image))
  rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
  np.testing.assert_array_equal(gone.sum((1, 2)), rows * columns)
  assert rows.max() == 8 and columns.max() == 12
  assert gone.any((0, 2)).all() and gone.any((0, 1)).all(), "a row or column is never erased"
  seen = (rows > 0) & (columns > 0)
  assert stats.linregress(rows[seen], columns[seen]).pvalue > 1e-3, "height and width share their draw"


# Photometry.


def test_hue_shift_is_that_of_hsv():
  image = np.concatenate([
      images()[0].reshape(-1, 3), np.eye(3), 1 - np.eye(3), np.full((1, 3), 0.4), np.zeros((1, 3)),
      np.array([[0.5, 0.5, 0.2], [0.2, 0.7, 0.7], [0.9, 0.1, 0.9]])]).astype(np.float32)[None]
  shift_hue = jax.jit(photometric.shift_hue)
  for shift in (0.0, 0.1, -0.1, 0.5, -0.37):
    def turn(pixel):
      h, s, v = colorsys.rgb_to_hsv(*pixel)
      return colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    expected = np.array([turn(p) for p in image[0].astype(np.float64)])[None]
    np.testing.assert_allclose(shift_hue(image, shift), expected, atol=2e-6)


LUMA = np.array([0.299, 0.587, 0.114])


def test_jitter_blends_with_mean_and_grey():
  """Without clipping the two blends commute and are linear, so that their factors can be read off by least
  squares; over keys each is uniform in [1 - strength, 1 + strength], on its own."""
  # a mean over channels is not the mean grey
  image = ([0.3, 0.4, 0.5] + 0.1 * images()[0]).astype(np.float32)
  out = each(photometric.color_jitter, 1000, image, brightness=0.0, contrast=0.3, saturation=0.2, hue=0.0)
  grey = np.broadcast_to((image @ LUMA)[..., None], image.shape)
  a = np.stack([image, grey, np.full_like(image, grey.mean())], -1).reshape(-1, 3).astype(np.float64)
  solution, residual, _, _ = np.linalg.lstsq(a, out.reshape(1000, -1).T, rcond=None)
  assert residual.max() < 1e-8
  np.testing.assert_allclose(solution.sum(0), 1, atol=1e-3)          # c (s x + (1 - s) grey) + (1 - c) mean
  c = solution[:2].sum(0)
  s = solution[0] / c
  for factor, strength in ((c, 0.3), (s, 0.2)):
    assert stats.kstest(factor, stats.uniform(1 - strength, 2 * strength).cdf).pvalue > 1e-3
  assert np.abs(np.corrcoef([c, s]) - np.eye(2)).max() < 0.15, "two factors share their draw"


def blended(image, other, factor):
  return np.clip(factor * image + (1 - factor) * other, 0, 1)


def test_jitter_clips_takes_every_order_and_never_a_negative_factor():
  """Brightness before contrast is not contrast before brightness, once values are clipped; both happen."""
  image = images(1, 8, 8)[0]
  out = each(photometric.color_jitter, 400, image, brightness=1.5, contrast=0.9, saturation=0.0, hue=0.0)
  assert out.min() >= 0 and out.max() == 1 and out.mean((1, 2, 3)).min() < 0.05
  bright_first, contrast_first = [], []
  for f in np.linspace(0.0, 2.5, 51):
    for g in np.linspace(0.1, 1.9, 41):
      x = blended(image, 0, f)
      bright_first.append(blended(x, (x @ LUMA).mean(), g))
      contrast_first.append(blended(blended(image, (image @ LUMA).mean(), g), 0, f))
  tables = np.array(bright_first), np.array(contrast_first)
  gaps = np.array([[np.abs(o - t).mean((1, 2, 3)).min() for t in tables] for o in out])
  assert gaps.min(1).max() < 0.03                                    # each is one of the two,
                                                                     # up to the lattice
  told = gaps.max(1) > 0.035                                         # far from what the other order can give
  first = (gaps[:, 0] < gaps[:, 1])[told]
  assert told.sum() > 20 and 0.2 < first.mean() < 0.8


def test_hue_and_brightness_jitter_are_uniform():
  # no clipping; brightness moves neither hue nor saturation
  pixel = np.full((1, 1, 3), [0.6, 0.3, 0.2], np.float32)
  out = each(photometric.color_jitter, 1000, pixel, brightness=0.4, contrast=0.0, saturation=0.0,
             hue=0.1)[:, 0, 0].astype(float)
  before, after = colorsys.rgb_to_hsv(0.6, 0.3, 0.2), np.array([colorsys.rgb_to_hsv(*p) for p in out])
  turned = (after[:, 0] - before[0] + 0.5) % 1 - 0.5
  factor = after[:, 2] / before[2]
  np.testing.assert_allclose(after[:, 1], before[1], atol=1e-4)
  assert stats.kstest(turned, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
  assert stats.kstest(factor, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
  assert abs(np.corrcoef(turned, factor)[0, 1]) < 0.15


def test_jitter_in_order_is_one_step_after_the_other():
  image = images(1, 6, 5)[0]
  factors, shift = np.array([1.6, 0.3, 1.7], np.float32), np.float32(0.15)
  steps = (lambda x: blended(x, 0, factors[0]), lambda x: blended(x, (x @ LUMA).mean(), factors[1]),
           lambda x: blended(x, (x @ LUMA)[..., None], factors[2]),
           lambda x: np.asarray(photometric.shift_hue(x.astype(np.float32), shift)))
  jitter = jax.jit(photometric.jitter_in_order)
  results = []
  for steps_in_order in itertools.permutations(range(4)):
    expected = image
    for step in steps_in_order:
      expected = steps[step](expected)
    turn, order = steps_in_order.index(3), np.array([s for s in steps_in_order if s != 3])
    results.append(np.asarray(jitter(image, factors, shift, order, turn)))
    np.testing.assert_allclose(results[-1], expected, atol=2e-5)
  distances = np.abs(np.array(results)[:, None] - np.array(results)[None]).max((2, 3, 4))
  assert (distances + np.eye(24)).min() > 1e-4, "two orders cannot be told apart"


def test_all_orders_of_the_jitter_are_equally_likely():
  for kinds, count in (((0, 1, 2), 24), ((0, 2), 6), ((), 1)):
    order, turn = jax.vmap(lambda k: photometric.jitter_order(k, kinds))(jax.random.split(KEY, 4800))
    assert order.shape == (4800, len(kinds)) and set(np.unique(order)) == set(kinds)
    _, seen = np.unique(np.concatenate([order, turn[:, None]], 1), axis=0, return_counts=True)
    assert len(seen) == count and (count == 1 or stats.chisquare(seen).pvalue > 1e-3)


def test_jitter_of_no_strength_is_the_identity_and_of_hue_alone_a_shift():
  image = images()[0]
  none = dict(brightness=0.0, contrast=0.0, saturation=0.0)
  same = each(photometric.color_jitter, 3, image, **none, hue=0.0)
  np.testing.assert_array_equal(same, np.stack([image] * 3))
  turned = each(photometric.color_jitter, 3, image, **none, hue=0.5)
  np.testing.assert_allclose(turned.max(-1), np.stack([image.max(-1)] * 3), atol=1e-5)
  assert np.abs(turned - image).max((1, 2, 3)).min() > 0.01


def test_photometry_of_what_is_not_rgb_says_what_to_set():
  with pytest.raises(ValueError, match="RGB, not 1 channel.*jitter = 0"):
    photometric.apply_photometric(KEY, images(c=1)[0])
  blurred = photometric.apply_photometric(KEY, images(c=1)[0], jitter=0.0, gray=0.0, blur=1.0)
  assert blurred.shape == (16, 16, 1)


@pytest.mark.parametrize("h,w,radius", [(32, 20, 1), (50, 60, 2)])
def test_blur_is_a_gaussian_cut_at_a_tenth_of_the_side(h, w, radius):
  image = images(1, h, w)[0]
  blur = jax.jit(photometric.gaussian_blur)
  for sigma in (0.1, 0.8, 2.0):
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), radius=(radius, radius, 0), mode="mirror")
    np.testing.assert_allclose(blur(image, sigma), expected, atol=1e-5)


def test_photometric_transforms_happen_as_often_as_told():
  """Each leaves its mark on an image of two flat halves: a scale, equal channels, a soft edge,
  a bright half made dark."""
  dark, bright = np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.85, 0.8])
  image = np.where(np.arange(16)[None, :, None] < 8, dark, bright).repeat(16, 0).astype(np.float32)
  out = each(photometric.apply_photometric, 1500, image, brightness=0.05, contrast=0.0, saturation=0.0,
             hue=0.0, jitter=0.8, gray=0.2, blur=0.5, blur_sigma=(0.5, 2.0), solarize=0.1)
  left, right = out[:, 8, 1], out[:, 8, -2]
  grey = np.ptp(left, axis=-1) < 1e-5
  scale = np.where(grey, left[:, 0] / (dark @ LUMA), left[:, 0] / dark[0])
  marks = {"jitter": (np.abs(scale - 1) > 1e-5, 0.8), "gray": (grey, 0.2),
           "blur": (np.abs(out[:, 8, 7] - left).max(-1) > 1e-3, 0.5), "solarize": (right.mean(-1) < 0.5, 0.1)}
  for name, (seen, probability) in marks.items():
    assert stats.binomtest(int(seen.sum()), len(seen), probability).pvalue > 1e-3, name
  happened = np.array([seen for seen, _ in marks.values()])
  assert np.abs(np.corrcoef(happened) - np.eye(4)).max() < 0.12, "two transforms share their draw"
  np.testing.assert_allclose(out[~happened.any(0)], np.broadcast_to(image, out[~happened.any(0)].shape),
                             atol=1e-6)
  only = lambda i: happened[i] & (happened.sum(0) == 1)
  np.testing.assert_allclose(right[only(1)], np.full((only(1).sum(), 3), bright @ LUMA), atol=1e-6)
  np.testing.assert_allclose(right[only(3)], np.broadcast_to(1 - bright, right[only(3)].shape), atol=1e-6)
  assert only(1).any() and only(3).any()


def test_photometric_stays_in_range():
  transform = jax.jit(jax.vmap(functools.partial(photometric.apply_photometric, solarize=0.2)))
  keys = jax.random.split(KEY, 100)
  noise = np.round(images(100, 12, 10))                              # zeros and ones
  for batch in (np.zeros_like(noise), np.ones_like(noise), noise):
    out = np.asarray(transform(keys, batch))
    assert out.shape == batch.shape and out.min() > -1e-6 and out.max() < 1 + 1e-6


# Recipes.

AFFINE = dict(kind="affine", count=2, noise=0.1, erase=0.3)
CROPS = dict(kind="crops", count=2, size=12, local_count=3, local_size=8)


@functools.cache
def _recipe(kind):
  return jax.jit(views.make(**{"affine": AFFINE, "crops": CROPS}[kind]))


@pytest.mark.parametrize("kind,shapes", [("affine", [(2, 4, 16, 20, 3)]),
                                         ("crops", [(2, 4, 12, 12, 3), (3, 4, 8, 8, 3)])])
def test_recipes_are_functions_of_the_key(kind, shapes):
  recipe = _recipe(kind)
  batch = np.repeat(images(1, 16, 20), 4, 0)                         # one image four times
  groups = recipe(KEY, batch)
  assert [g.shape for g in groups] == shapes and all(g.dtype == jnp.float32 for g in groups)
  for a, b, c in zip(groups, recipe(KEY, batch), recipe(jax.random.key(1), batch)):
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    flat = np.asarray(a).reshape(-1, a[0, 0].size)
    assert len(np.unique(flat, axis=0)) == len(flat), "two views, or two images, share their draw"
  assert recipe._cache_size() == 1


def test_identity_parameters_are_the_identity():
  batch = images(3)
  still = dict(rotate=0.0, scale=(1.0, 1.0), shear=0.0, translate=0.0)
  (out,) = jax.jit(views.affine_views(count=2, **still))(KEY, batch)
  np.testing.assert_allclose(out, np.stack([batch] * 2), atol=1e-5)
  (out,) = jax.jit(views.crop_views(size=16, scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0))(KEY, batch)
  np.testing.assert_allclose(out, batch[None], atol=1e-5)


def test_to_float_and_standardise():
  byte = np.array([[[[0, 51, 255]]]], np.uint8)
  x = views.to_float(byte)
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(x, byte / 255.0, rtol=1e-6)
  np.testing.assert_array_equal(views.to_float(np.asarray(x)), x)
  mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
  np.testing.assert_allclose(views.standardise(x, mean, std), (byte / 255.0 - mean) / std, atol=1e-6)
  np.testing.assert_allclose(views.standardise(x, 0.5, 0.5), byte / 127.5 - 1, atol=1e-6)
  np.testing.assert_array_equal(views.standardise(byte, mean, std), views.standardise(x, mean, std))


def test_recipes_by_name_take_bytes():
  byte = (255 * images(3)).astype(np.uint8)
  for args in (CROPS, dict(AFFINE, noise=0.0), dict(kind="supervised", size=8)):
    recipe = jax.jit(views.make(**args))
    for ours, of_floats in zip(recipe(KEY, byte), recipe(KEY, views.to_float(byte))):
      np.testing.assert_allclose(ours, of_floats, atol=1e-5)


def test_an_unknown_recipe_says_which_exist():
  with pytest.raises(ValueError, match="'crop' is unknown.*affine, crops"):
    views.make(kind="crop", size=8)


def test_given_views_are_those_of_the_batch():
  batch = np.random.default_rng(0).random((5, 2, 4, 4, 3), np.float32)
  (out,) = views.make(kind="given")(KEY, batch)
  np.testing.assert_array_equal(out, batch.swapaxes(0, 1))


# Published sets.

WHOLE = dict(scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)


@pytest.mark.parametrize("kind,globals_,locals_", [
    ("simclr", 2, 0), ("byol", 2, 0), ("mocov3", 2, 0), ("dino", 2, 8), ("mae", 1, 0), ("lejepa", 2, 6),
    ("supervised", 1, 0), ("mocov2", 2, 0), ("wmse", 2, 0)])
def test_published_sets_give_their_views(kind, globals_, locals_):
  args = dict(local_size=8) if locals_ else {}
  batch = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  shapes = [(globals_, 4, 12, 12, 3)] + ([(locals_, 4, 8, 8, 3)] if locals_ else [])
  for small in (False, True):
    groups = jax.eval_shape(views.make(kind=kind, size=12, small=small, **args), KEY, batch)
    assert [g.shape for g in groups] == shapes and all(g.dtype == jnp.float32 for g in groups)


def test_published_sets_are_all_tested_and_their_fields_replaced():
  assert set(views.PUBLISHED) == {"simclr", "byol", "mocov3", "dino", "mae", "lejepa", "supervised",
                                  "mocov2", "wmse"}
  still = dict(jitter=0.0, gray=0.0, blur=0.0)
  recipe = jax.jit(views.make(kind="simclr", size=16, photometric=still, count=3, **WHOLE))
  (out,) = recipe(KEY, images(2))
  np.testing.assert_allclose(out, np.stack([images(2)] * 3), atol=1e-5)


@pytest.mark.parametrize("kind", ["byol", "dino"])
def test_the_two_views_of_byol_differ(kind):
  """The first is always blurred, never solarised; the second is blurred in a tenth and solarised in a fifth.
  Seen on a flat image with one white pixel."""
  n = 600
  image = np.full((1, 16, 16, 3), 0.6, np.float32)
  image[0, 8, 8] = 1.0
  sets = [dict(p, jitter=0.0, gray=0.0, blur_sigma=(0.8, 1.0)) for p in views.PUBLISHED[kind]["photometric"]]
  recipe = views.make(kind=kind, size=16, photometric=sets, local_count=0, **WHOLE)
  (out,) = jax.jit(recipe)(KEY, np.repeat(image, n, 0))
  flat, beside = np.asarray(out[:, :, 0, 0, 0]), np.asarray(out[:, :, 8, 9, 0])
  blurred, solarised = np.abs(beside - flat) > 1e-3, flat < 0.5
  assert blurred[0].all() and not solarised[0].any()
  assert stats.binomtest(int(blurred[1].sum()), n, 0.1).pvalue > 1e-3
  assert stats.binomtest(int(solarised[1].sum()), n, 0.2).pvalue > 1e-3


def test_local_views_take_their_own_photometry_or_the_last_one():
  dark, none = dict(jitter=0.0, gray=0.0, blur=0.0, solarize=1.0), dict(jitter=0.0, gray=0.0, blur=0.0)
  image = np.full((2, 16, 16, 3), 0.9, np.float32)
  level = lambda **args: [float(g.mean()) for g in jax.jit(views.crop_views(
      count=2, size=8, local_count=2, local_size=4, **args))(KEY, image)]
  np.testing.assert_allclose(level(photometric=(none, dark)), [0.5, 0.1], atol=1e-5)
  np.testing.assert_allclose(level(photometric=(none, dark), local_photometric=none), [0.5, 0.9], atol=1e-5)
  np.testing.assert_allclose(level(local_photometric=dark), [0.9, 0.1], atol=1e-5)


def test_small_leaves_blur_out_of_every_view(monkeypatch):
  def blur(image, sigma):
    raise AssertionError("blurred")
  monkeypatch.setattr(photometric, "gaussian_blur", blur)
  batch = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  for kind in views.PUBLISHED:
    args = dict(local_size=8) if "local_size" in views.PUBLISHED[kind] else {}
    jax.eval_shape(views.make(kind=kind, size=12, small=True, **args), KEY, batch)
  with pytest.raises(AssertionError, match="blurred"):
    jax.eval_shape(views.make(kind="dino", size=12, local_size=8), KEY, batch)


@pytest.mark.parametrize("args,message", [
    (dict(local_count=2), "local_size = 0 of 2 local views.*set local_size"),
    (dict(local_count=2, local_size=20), "local_size = 20 .* ones of 16 pixels"),
    (dict(scale=(0.5, 0.2)), r"scale = \(0.5, 0.2\).*low <= high"), (dict(scale=(0.0, 1.0)), "scale = "),
    (dict(local_count=1, local_size=8, local_scale=(0.5, 1.5)), "local_scale = "),
    (dict(count=3, photometric=[{}, {}]), "2 sets for 3 global views: give one for each"),
    (dict(photometric=dict(solarise=0.1)), "no option solarise; choose among brightness.* solarize"),
    (dict(local_count=1, local_size=8, local_photometric=dict(hu=0.1)), "no option hu;")])
def test_crops_that_do_not_fit_say_what_to_change(args, message):
  with pytest.raises(ValueError, match=message):
    views.crop_views(size=16, **args)


def test_published_local_crops_must_fit_the_size():
  with pytest.raises(ValueError, match="local_size = 96 of 8 local views"):
    views.make(kind="dino", size=32)
