"""Our views against torchvision's transforms on float tensors: each primitive at fixed parameters, then the
law of a whole pipeline. Needs torch and torchvision: pip install -e '.[parity]'."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jepa import peers, photometric, views
from tests import laws

torch = pytest.importorskip(
    "torch", reason="parity with torchvision needs torch: pip install -e '.[parity]'")

try:
  with peers.importing_torchvision():
    from torchvision import transforms as T
    from torchvision.transforms import functional as F
except ImportError:
  pytest.skip("parity with torchvision needs torchvision: pip install -e '.[parity]'", allow_module_level=True)

IMAGE = np.random.default_rng(0).random((36, 44, 3), np.float32)


def theirs(function, *args, image=IMAGE, **kwargs):
  """function of a tensor [C H W], as NumPy [H W C]."""
  return function(torch.from_numpy(image).permute(2, 0, 1), *args, **kwargs).permute(1, 2, 0).numpy()


# Primitives.


@pytest.mark.parametrize("kind,adjust", [(0, F.adjust_brightness), (1, F.adjust_contrast),
                                         (2, F.adjust_saturation)])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_blends(kind, adjust, factor):
  jitter = jax.jit(lambda factors: photometric.jitter_in_order(IMAGE, factors, None, jnp.array([kind]), 0))
  ours = jitter(jnp.ones(3).at[kind].set(factor))
  np.testing.assert_allclose(ours, theirs(adjust, factor), atol=2e-4)      # their grey weighs red by 0.2989


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.2, 0.5, -0.5])
def test_hue(shift):
  ours = jax.jit(photometric.shift_hue)(IMAGE, jnp.float32(shift))
  np.testing.assert_allclose(ours, theirs(F.adjust_hue, shift), atol=1e-5)


def test_all_orders_of_the_jitter():
  steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
  jitter = jax.jit(photometric.jitter_in_order)
  rng = np.random.default_rng(1)
  for _ in range(24):
    order, turn = rng.permutation(3), int(rng.integers(4))
    factors, shift = rng.uniform(0.2, 1.8, 3).astype(np.float32), float(rng.uniform(-0.2, 0.2))
    x = IMAGE
    for i in range(4):
      x = theirs(F.adjust_hue, shift, image=x) if i == turn else x
      x = theirs(steps[order[i]], float(factors[order[i]]), image=x) if i < 3 else x
    np.testing.assert_allclose(jitter(IMAGE, factors, jnp.float32(shift), order, turn), x, atol=1e-3)


def test_grey():
  np.testing.assert_allclose(photometric.luma(IMAGE), theirs(F.rgb_to_grayscale), atol=2e-4)


@pytest.mark.parametrize("side,kernel", [(36, 3), (60, 7)])
def test_blur(side, kernel):
  image = np.random.default_rng(1).random((side, 44, 3), np.float32)
  blur = jax.jit(photometric.gaussian_blur)
  for sigma in (0.1, 0.7, 2.0):
    expected = theirs(F.gaussian_blur, kernel, sigma, image=image)
    np.testing.assert_allclose(blur(image, jnp.float32(sigma)), expected, atol=1e-5)


def test_solarisation():
  image = IMAGE.copy()
  image[0, 0] = 0.5                                                # at the threshold both invert
  ours = photometric.apply_photometric(jax.random.key(0), image, jitter=0.0, gray=0.0, blur=0.0, solarize=1.0)
  np.testing.assert_allclose(ours, theirs(F.solarize, 0.5, image=image), atol=1e-6)


def test_flip():
  ours = views.random_flip(jax.random.key(0), IMAGE, probability=1.0)
  np.testing.assert_array_equal(ours, theirs(F.hflip))


@pytest.mark.parametrize("size", [12, 31, 60])
def test_crops_up_to_their_edges(size):
  """Cut first and resized then: nothing outside the box is read, as in torchvision."""
  crop = jax.jit(views.crop_and_resize, static_argnums=3)
  for top, left, height, width in ((0, 0, 36, 44), (3, 5, 20, 31), (30, 40, 6, 4), (7, 0, 12, 12)):
    expected = theirs(F.resized_crop, top, left, height, width, [size, size], antialias=True)
    ours = crop(IMAGE, jnp.array([top, left]), jnp.array([height, width]), size)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


# The law of the pipeline.

SIZE, DRAWS, BLUR_KERNEL = 40, 1500, 5                             # a tenth of the side, made odd
SET = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=0.8, gray=0.2, blur=0.5,
           solarize=0.2)
CROP = dict(scale=(0.08, 1.0), flip=0.5)


def picture():
  """[48 56 3] in [0.05, 0.95]: colours, a gradient and an object off the centre, so that no transform leaves
  it as it was."""
  y, x = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 56), indexing="ij")
  image = np.stack([0.2 + 0.6 * x, 0.3 + 0.3 * y, 0.5 - 0.3 * x * y], -1)
  image[10:26, 34:50] = [0.15, 0.35, 0.8]
  image += 0.15 * np.sign(np.sin(40 * x + 9 * y))[..., None] * [1.0, 0.7, 0.4]
  return np.clip(image, 0.05, 0.95).astype(np.float32)


def features(images):
  """[n 12] of images [n h w 3]: mean and deviation of channels, gradients down and across, the signed one
  across, saturation, and the mean hue as a vector."""
  down, across = np.diff(images, axis=1), np.diff(images, axis=2)
  high, low = images.max(-1), images.min(-1)
  opponent = np.stack([images[..., 0] - (images[..., 1] + images[..., 2]) / 2,
                       np.sqrt(3) / 2 * (images[..., 1] - images[..., 2])], -1)
  return np.concatenate([
      images.mean((1, 2)), images.std((1, 2)),
      np.stack([np.square(down).mean((1, 2, 3)), np.square(across).mean((1, 2, 3)), across.mean((1, 2, 3)),
                ((high - low) / np.maximum(high, 1e-3)).mean((1, 2))], -1), opponent.mean((1, 2))], -1)


@functools.cache
def our_features():
  recipe = views.crop_views(size=SIZE, photometric=SET, **CROP)
  batch = np.broadcast_to(picture(), (DRAWS, *picture().shape))
  return features(np.asarray(jax.jit(recipe)(jax.random.key(0), batch)[0][0], np.float64))


def their_features(*, scale, flip, brightness, contrast, saturation, hue, jitter, gray, blur, solarize,
                   sigma=(0.1, 2.0)):
  pipeline = T.Compose([
      T.RandomResizedCrop(SIZE, scale=scale, antialias=True), T.RandomHorizontalFlip(flip),
      T.RandomApply([T.ColorJitter(brightness, contrast, saturation, hue)], p=jitter),
      T.RandomGrayscale(gray), T.RandomApply([T.GaussianBlur(BLUR_KERNEL, sigma)], p=blur),
      T.RandomSolarize(0.5, solarize)])
  threads = torch.get_num_threads()
  torch.set_num_threads(1)                                         # images this small: threads only wait
  with torch.random.fork_rng():
    torch.manual_seed(0)
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    out = torch.stack([pipeline(image) for _ in range(DRAWS)])
  torch.set_num_threads(threads)
  return features(out.permute(0, 2, 3, 1).numpy().astype(np.float64))


def p_value(a, b):
  """That two samples of features have one law: of the first two moments together and of each feature's
  distribution (Kolmogorov-Smirnov), the smallest by Bonferroni's rule."""
  moments = lambda f: np.concatenate([f, np.square(f - a.mean(0))], -1)
  tests = [laws.same_mean(moments(a), moments(b))]
  tests += [stats.ks_2samp(x, y).pvalue for x, y in zip(a.T, b.T)]
  return min(1.0, min(tests) * len(tests))


def test_a_pipeline_has_their_law():
  assert p_value(our_features(), their_features(**CROP, **SET)) > 1e-3


@pytest.mark.parametrize("wrong", [
    dict(hue=0.4), dict(saturation=(1.0, 1.8)), dict(contrast=0.4), dict(jitter=1.0), dict(gray=0.3),
    dict(sigma=(0.1, 0.5)), dict(solarize=0.0), dict(scale=(0.2, 1.0)), dict(flip=0.0)],
    ids=lambda wrong: ",".join(wrong))
def test_a_pipeline_has_no_other_law(wrong):
  assert p_value(our_features(), their_features(**(CROP | SET | wrong))) < 1e-3
