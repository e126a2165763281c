"""Statistical tests of sampled laws. A row is one image, so that what an image's draws share is counted once."""
import numpy as np
from scipy import stats


def same_mean(ours: np.ndarray, theirs: np.ndarray) -> float:
  """p-value that two samples of rows [n F], [m F] have one mean vector (Hotelling's T2, a chi-squared of clustered counts)."""
  difference = ours.mean(0) - theirs.mean(0)
  return _chi_squared(difference, np.atleast_2d(np.cov(ours.T)) / len(ours) + np.atleast_2d(np.cov(theirs.T)) / len(theirs))


def zero_mean(rows: np.ndarray) -> float:
  """p-value that rows [n F] have mean zero."""
  return _chi_squared(rows.mean(0), np.atleast_2d(np.cov(rows.T)) / len(rows))


def _chi_squared(difference, covariance) -> float:
  values, vectors = np.linalg.eigh(covariance)
  kept = values > 1e-6 * values.max()              # the others are exact relations, such as counts that sum to a constant
  if np.abs(difference @ vectors[:, ~kept]).max(initial=0) > 1e-2 * np.sqrt(values.max() * len(difference)):
    return 0.0                                      # a relation that one sample obeys and the other does not
  return float(stats.chi2.sf(((difference @ vectors[:, kept]) ** 2 / values[kept]).sum(), kept.sum()))
