"""Weighted k-nearest-neighbour classification, the protocol of InstDisc (arXiv 1805.01978)
and DINO (2104.14294).

Features are scaled to length one (neither centred nor standardised), similarity is the cosine, and each of
the k nearest train examples votes for its class with exp(similarity / temperature). Nothing is trained and
nothing is drawn.

Shape letters: N train, M test, D width, K classes, Q queries in a chunk, k neighbours.
"""
from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepa.evals import classes as C, features as F, results

VERSION = 1
COLUMNS = (("knn", "kNN", "", "percent"),)
ORDER = 3
LABELS = True
CHUNK = 2 ** 26                     # similarities held at once, in numbers: 256 MiB of f32


def evaluate(features: F.FeatureSet, *, row: str, seed: int = 0, protocol: Mapping[str, Any] | None = None,
             k: int = 20, temperature: float = 0.07) -> list[results.Row]:
  """Test accuracy; row "knn". `seed` is not used: the result is a function of the features.

  Raises:
    ValueError: no labelled examples.
  """
  del seed
  features = C.labelled(features)
  if not len(features.train_y) or not len(features.test_y):
    raise ValueError(f"{row}: kNN needs labelled train and test examples")
  classes, y, test_y = C.classes_of(features)
  k = min(k, len(y))
  guess = predict(features.train_x, y, features.test_x, k=k, temperature=temperature, classes=classes)
  record = {**(protocol or {}), "version": VERSION, "counts": C.counts(features),
            "standardisation": "each feature vector to length one; not centred",
            "classifier": "cosine, votes exp(similarity / T)",
            "settings": {"k": k, "temperature": temperature}}
  return [results.result(row, "knn", float(np.mean(guess == test_y)), record)]


def predict(x: np.ndarray, y: np.ndarray, queries: np.ndarray, *, k: int, temperature: float,
            classes: int) -> np.ndarray:
  """The class int32 [M] that the neighbours of every query vote for. x [N D], y [N], queries [M D]."""
  x, y = _unit(x), jnp.asarray(y)
  # Two programs: in one, XLA on a CPU turns the top-k into a full sort, 36 times slower at 50,000 examples.
  vote = lambda q: _vote(y, *_nearest(x, q, k=k), temperature, classes=classes)
  return np.concatenate([np.asarray(vote(q))[:valid] for q, valid in _chunks(queries, len(x))])


def neighbours(x: np.ndarray, queries: np.ndarray, *, k: int) -> np.ndarray:
  """Positions int32 [M k] of the k train examples with the largest cosine, nearest first."""
  x = _unit(x)
  return np.concatenate([np.asarray(_nearest(x, q, k=k)[1])[:valid] for q, valid in _chunks(queries, len(x))])


@jax.jit
def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(x: jax.Array, queries: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
  return jax.lax.top_k(jnp.matmul(_unit(queries), x.T, precision="float32"), k)


@functools.partial(jax.jit, static_argnames="classes")
def _vote(y: jax.Array, similarity: jax.Array, index: jax.Array, temperature: float, *,
          classes: int) -> jax.Array:
  # Relative to the nearest, so that a small temperature cannot overflow.
  weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
  rows = jnp.arange(len(index))[:, None]
  votes = jnp.zeros((len(index), classes)).at[rows, y[index]].add(weight)
  return jnp.argmax(votes, -1).astype(jnp.int32)


def _chunks(queries: np.ndarray, n: int):
  """(queries [Q D], padded with zeros to one size so that one compilation serves all; valid rows)."""
  size = min(len(queries), max(1, CHUNK // n))
  for at in range(0, len(queries), size):
    part = queries[at:at + size]
    yield np.pad(part, ((0, size - len(part)), (0, 0))), len(part)
