"""Demonstrations of PushT: a folder with pusht_demos.npz ("action", "state", "episode_ends") and
frames/EEE.webp, a grid of 8 columns for each episode."""
from pathlib import Path

import numpy as np

from jepa.data.recordings.files import Files, arrays, decoded, ends_of, episodes, needed

POSITION = (0, 1)                   # of the state: the agent, which is proprioception, and not the block
_COLUMNS, _SIDE = 8, 96             # of a grid of frames


def read(root: Path, camera: str) -> Files:
  root = root if root.is_dir() else root.parent
  file = root / "pusht_demos.npz"
  if not file.exists():
    raise FileNotFoundError(f"{str(file)!r} does not exist; a folder of PushT holds it and frames/EEE.webp")
  data = arrays(file, ("action", "state", "episode_ends"))
  for key in ("action", "state", "episode_ends"):
    needed(data, key, file)
  spans = episodes(ends_of(data["episode_ends"], len(data["action"]), file))

  def frames(e: int) -> np.ndarray:
    grid, count = decoded((root / "frames" / f"{e:03d}.webp").read_bytes()), spans[e, 1] - spans[e, 0]
    rows = -(-count // _COLUMNS)
    if grid.shape != (rows * _SIDE, _COLUMNS * _SIDE, 3):
      raise ValueError(f"a grid of {grid.shape}; {count} frames of {_SIDE}x{_SIDE} need "
                       f"{(rows * _SIDE, _COLUMNS * _SIDE, 3)}")
    tiles = grid.reshape(rows, _SIDE, _COLUMNS, _SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, _SIDE, _SIDE, 3)[:count]
  return Files(frames, data["action"], data["state"], data["episode_ends"])
