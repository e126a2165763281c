"""1,797 digits 8x8x1 that ship in scikit-learn: 4/5 of each class to train, 1/5 to test."""
import numpy as np

from jepa.data import splits
from jepa.data.source import Source


def make(split: str) -> Source:
  """The 1,797 digits of scikit-learn, uint8 8x8x1; grey levels 0..16 become 0..255."""
  from sklearn.datasets import load_digits
  data = load_digits()
  image = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
  return splits.source_of("digits (scikit-learn)", split, image, data.target)
