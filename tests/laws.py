"""Statistical tests of sampled laws. A row is one image, so that what an image's draws share is counted
once."""
import numpy as np
from scipy import stats


def same_mean(ours: np.ndarray, theirs: np.ndarray) -> float:
  """p-value that two samples of rows [n F], [m F] have one mean vector
  (Hotelling's T2, a chi-squared of clustered counts)."""
  difference = ours.mean(0) - theirs.mean(0)
  return _chi_squared(
      difference, np.atleast_2d(np.cov(ours.T)) / len(ours) + np.atleast_2d(np.cov(theirs.T)) / len(theirs))


def zero_mean(rows: np.ndarray) -> float:
  """p-value that rows [n F] have mean zero."""
  return _chi_squared(rows.mean(0), np.atleast_2d(np.cov(rows.T)) / len(rows))


def _chi_squared(difference, covariance) -> float:
  deviation = np.sqrt(np.diag(covariance))
  if difference[deviation == 0].any():
    return 0.0                                      # a constant that differs
  difference, deviation = difference[deviation > 0] / deviation[deviation > 0], deviation[deviation > 0]
  covariance = (covariance[np.ix_(np.diag(covariance) > 0, np.diag(covariance) > 0)]
                / np.outer(deviation, deviation))
  values, vectors = np.linalg.eigh(covariance)
  kept = values > 1e-6 * values.max()  # the others are exact relations, such as counts that sum to a constant
  if np.abs(difference @ vectors[:, ~kept]).max(initial=0) > 0.01:
    return 0.0                                      # a relation that one sample obeys and the other does not
  return float(stats.chi2.sf(((difference @ vectors[:, kept]) ** 2 / values[kept]).sum(), kept.sum()))
