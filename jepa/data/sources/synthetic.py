"""Noisy patterns, one a class, for tests.

Shape letters: N examples, K classes, H W C image.
"""
import numpy as np

from jepa.data import splits
from jepa.data.source import Source


def make(split: str, *, n: int = 512, size: int = 16, channels: int = 3, classes: int = 4,
         seed: int = 0) -> Source:
  """A fixed smooth pattern per class, its contrast random, under noise: n training images and n/4 (at least
  one a class) to test.
  """
  rng = np.random.default_rng(seed)
  total = n + max(classes, n // 4)
  wave = rng.normal(size=(classes, 3, channels, 3))         # [K waves C (frequency y, frequency x, phase)]
  y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
  angle = 3 * (wave[..., 0, None, None] * y + wave[..., 1, None, None] * x) + 3 * wave[..., 2, None, None]
  pattern = np.sin(angle).mean(1).transpose(0, 2, 3, 1)     # [K H W C]
  label = np.arange(total) % classes
  image = pattern[label] * rng.uniform(0.5, 1, (total, 1, 1, 1))
  image += 0.3 * rng.normal(size=image.shape)
  image = np.clip(127.5 + 90 * image, 0, 255).astype(np.uint8)
  parts = {"train": np.arange(n), "test": np.arange(n, total)}
  return splits.source_of(f"synthetic (seed {seed})", split, image, label, parts)
