"""Scenes: the same for ever, the same in every split, masks that are the ink, texture that knows no label."""
import time

import numpy as np
import pytest

from jepa.data import mnist, source as sources
from jepa.data.sources import scenes

load = lambda split="test[:200]", **kwargs: sources.make("scenes", split, **kwargs)


def test_a_scene_is_a_function_of_seed_and_digit():
  whole, test = load("all", contrast=0.5), load("test", contrast=0.5)
  rows = {im.tobytes() for im in whole.arrays["image"]}
  assert len(rows) == 5000 and {im.tobytes() for im in test.arrays["image"]} <= rows
  assert (test.length, test.shape, test.classes, test.text) == (1000, (32, 32, 1), 10, 0)
  assert np.bincount(test.arrays["label"]).tolist() == [100] * 10
  assert np.array_equal(test.arrays["label"], sources.make("mnist5k", "test").arrays["label"])
  assert (load(seed=1).arrays["image"] != load().arrays["image"]).any()
  for word in ("scenes 1", "contrast 0.5", "seed 0", "size 18 to 28", "1000 images 32x32x1"):
    assert word in test.describe


def test_scenes_are_what_they_always_were():
  """Changing these numbers needs a new VERSION: results on scenes would not be comparable."""
  a = load(contrast=1.0).arrays
  total = a["image"].astype(np.int64).sum((1, 2, 3))[:3]
  assert abs(total - [153170, 157694, 143146]).max() < 100          # FFTs differ by a rounding
  assert a["mask"].astype(bool).sum((1, 2))[:3].tolist() == [139, 86, 95]


def test_masks_are_the_ink_and_the_ink_is_whole():
  plain, busy = load().arrays, load(contrast=1.0).arrays
  image, label, mask = plain["image"][..., 0], plain["label"], plain["mask"]
  assert mask.dtype == np.uint8 and mask.shape == image.shape
  assert np.array_equal(mask, np.where(image > 127, 1 + label[:, None, None], 0))
  assert np.array_equal(busy["mask"], mask) and (busy["image"][..., 0] >= image).all()
  # Ink shrinks with the square of the scale, and none of it is lost at the border.
  digit, _ = mnist.read()
  fixed = load("all", size=(21, 21)).arrays["image"].astype(float).sum((1, 2, 3))
  np.testing.assert_allclose(fixed / digit.astype(float).sum((1, 2)), (21 / 28) ** 2, rtol=0.02)


def test_an_unturned_full_frame_is_the_digit():
  digit, _ = mnist.read()
  image = load("all", canvas=28, size=(28, 28), rotate=0.0).arrays["image"][..., 0].astype(float)
  smooth = np.pad(digit.astype(float), ((0, 0), (1, 1), (1, 1)))
  for axis in (1, 2):                         # two samples a pixel and axis, a quarter off its centre
    smooth = 0.75 * smooth + 0.125 * (np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis))
  assert abs(image - smooth[:, 1:-1, 1:-1]).max() <= 0.51


def test_places_and_sizes_cover_what_they_should():
  mask = load("all", canvas=48).arrays["mask"] > 0
  y, x = (mask.any(axis).argmax(1) for axis in (2, 1))
  assert min(y.min(), x.min()) <= 4 and max(y.max(), x.max()) >= 30
  height = mask.any(2).sum(1)
  assert height.min() < 14 and 18 < height.max() <= 28


def test_texture_fills_the_range_and_tells_nothing():
  place, noise = scenes._draws(np.arange(300), canvas=32, channels=1, seed=0)
  texture = scenes._texture(noise)[:, 0]
  assert place.shape == (300, 4) and 0 <= place.min() < 0.01 and 0.99 < place.max() < 1
  assert (texture.min((1, 2)) == 0).all() and (texture.max((1, 2)) == 1).all()
  assert abs(np.corrcoef(texture.reshape(300, -1)) - np.eye(300)).max() < 0.7     # no two alike
  power = abs(np.fft.fft2(texture - texture.mean((1, 2), keepdims=True))).mean(0)
  assert power[12:21, 12:21].max() < 1e-2 * power[:4, :4].max()     # nothing at the pixel's own scale
  corner = load("train", contrast=1.0).arrays      # what no digit reaches says nothing of the class
  strip = corner["image"][:, 0, :, 0].astype(float)
  means = np.stack([strip[corner["label"] == c].mean() for c in range(10)])
  assert np.ptp(means) < 6 * strip.mean(1).std() / 20


def test_channels():
  grey, colour = load(contrast=1.0).arrays["image"], load(contrast=1.0, channels=3).arrays["image"]
  assert colour.shape[-1] == 3 and np.array_equal(colour[..., :1], grey)
  assert (colour[..., 0] != colour[..., 1]).mean() > 0.5
  black = load(channels=3).arrays["image"]
  assert (black == black[..., :1]).all() and black.min() == 0


@pytest.mark.parametrize("args", (
    dict(size=(18, 40)), dict(size=(20, 10)), dict(size=(2, 10)), dict(canvas=4), dict(contrast=1.5),
    dict(channels=2), dict(rotate=-1), dict(seed=-1)))
def test_arguments_out_of_range(args):
  with pytest.raises(ValueError, match=f"{next(iter(args))} = "):
    load(**args)


def test_all_scenes_take_seconds():
  start = time.process_time()
  load("all", contrast=1.0)
  assert time.process_time() - start < 15
