"""Labelled features as classifiers need them: standardised, their labels without gaps. What linear probes,
kNN and segmentation share.

Shape letters: N train examples, M test examples, D width, K classes.
"""
import numpy as np

from jepa.evals.features import FeatureSet


def labelled(features: FeatureSet) -> FeatureSet:
  """Only the examples that have a label (>= 0)."""
  train, test = features.train_y >= 0, features.test_y >= 0
  return FeatureSet(features.train_x[train], features.train_y[train],
                    features.test_x[test], features.test_y[test])


def standardise(features: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
  """(train_x, test_x) in units of train's mean and standard deviation; a dimension that is constant on train
  becomes 0.

  "Constant" is relative to the size of the values, because the mean of N equal f32 numbers is not exactly
  that number.
  """
  mean = features.train_x.mean(0, dtype=np.float64)
  sd = features.train_x.std(0, dtype=np.float64)
  alive = sd > 1e-6 * np.maximum(np.abs(mean), 1e-6)
  scale = np.where(alive, 1 / np.where(alive, sd, 1), 0)
  mean, scale = mean.astype(np.float32), scale.astype(np.float32)
  return (features.train_x - mean) * scale, (features.test_x - mean) * scale


STANDARDISED = "per dimension: mean and standard deviation of the train split; constant dimensions set to 0"


def counts(features: FeatureSet) -> dict[str, int]:
  """Sizes for a protocol record."""
  return {"train": len(features.train_x), "test": len(features.test_x), "dim": features.train_x.shape[1],
          "classes": len(np.unique(features.train_y[features.train_y >= 0]))}


def classes_of(features: FeatureSet) -> tuple[int, np.ndarray, np.ndarray]:
  """(K, train labels in [0, K), test labels, -1 for a class that train does not have)."""
  classes, train = np.unique(features.train_y, return_inverse=True)
  position = np.clip(np.searchsorted(classes, features.test_y), 0, len(classes) - 1)
  test = np.where(classes[position] == features.test_y, position, -1)
  return len(classes), train.astype(np.int32), test.astype(np.int32)
