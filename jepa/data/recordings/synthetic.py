"""A dot in the unit square that its actions push about, for tests; no file: path="synthetic"."""
from pathlib import Path

import numpy as np

from jepa.data.recordings.files import Files, episodes


def read(root: Path, camera: str) -> Files:
  """Its position is the sum of the actions; 12 episodes of 12 to 23 steps."""
  rng = np.random.default_rng(0)
  ends = np.cumsum(np.arange(12, 24))
  y, x = np.meshgrid(*[np.linspace(0, 1, 16)] * 2, indexing="ij")
  action, state = rng.uniform(-0.2, 0.2, (ends[-1], 2)), np.empty((ends[-1], 2))
  for first, last in episodes(ends):
    state[first] = rng.uniform(0.2, 0.8, 2)
    for i in range(first + 1, last):
      action[i - 1] = np.clip(state[i - 1] + action[i - 1], 0, 1) - state[i - 1]
      state[i] = state[i - 1] + action[i - 1]
  dot = np.exp(-((x - state[:, :1, None]) ** 2 + (y - state[:, 1:, None]) ** 2) / 0.02)
  image = np.stack([255 * dot, 255 * (1 - dot), 127 * x + 0 * dot], -1).astype(np.uint8)
  spans = episodes(ends)
  return Files(lambda e: image[slice(*spans[e])], action, state, ends)
