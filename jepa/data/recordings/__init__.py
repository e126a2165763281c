"""Recorded episodes, read whole: frames, the action taken at each, and the state of the body.

A format is a file of this folder, or a dotted path into your own package, with a function

  read(root: Path, camera: str) -> Files               (jepa/data/recordings/files.py)

that leaves the frames to be decoded; what every recording has to fulfil is checked here. A format may say
which columns of its state are the position (POSITION, a tuple).

Shape letters: S steps of all episodes, E episodes, A action, P state, H W C image.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa import config
from jepa.data.recordings.files import check_finite, decode_all, ends_of, episodes, numbers

__all__ = ["LIMIT", "Recording", "detect", "episodes", "locate", "read"]

LIMIT = 4.0                         # GiB of decoded frames


class Recording(NamedTuple):
  """Episodes, one after the other."""

  image: np.ndarray                 # uint8 [S H W C]; [S 0 0 0] where they were not asked for
  action: np.ndarray                # f32 [S A], taken at its frame; that of an episode's last leads nowhere
  state: np.ndarray                 # f32 [S P]; P is 0 where nothing is recorded
  ends: np.ndarray                  # int64 [E]: episode e is steps ends[e-1] ... ends[e] - 1


def read(path: str | Path, *, format: str = "", size: int = 0, camera: str = "", images: bool = True,
         limit: float = LIMIT) -> Recording:
  """Reads a recording whole.

  Args:
    format: its name; "" tells it from the files (`detect`). size: frames are resized to size x size, their
      aspect not kept; 0 leaves them. camera: which images, where there are several. images: False leaves them
      out. limit: GiB of frames (after resizing) beyond which the recording is refused.

  Raises:
    FileNotFoundError: what is missing where.
    ValueError: an unknown format, a damaged file, lengths that do not fit together, actions or states that
      are not finite, several cameras, too many frames.
    ImportError: what to install.
  """
  root, format = locate(path, format)
  files = config.module(format, __name__, "read").read(root, camera)
  action, state = (numbers(x, k, root) for x, k in ((files.action, "action"), (files.state, "state")))
  if files.state is None:
    state = np.zeros((len(action), 0), np.float32)
  ends = ends_of(files.ends, len(action), root)
  if len(state) != len(action):
    raise ValueError(f"{str(root)!r}: {len(action)} actions and {len(state)} states; every step has one of "
                     "each")
  spans = episodes(ends)
  check_finite(action, "action", spans, root)
  check_finite(state, "state", spans, root)
  image = np.zeros((len(action), 0, 0, 0), np.uint8)
  if images:
    image = decode_all(files.frames, spans, size, limit, root)
  return Recording(image, action, state, ends)


def detect(path: str | Path) -> str:
  """The format of a path, told from the files.

  Raises:
    FileNotFoundError: it does not exist. ValueError: none fits; says which there are.
  """
  root = Path(path).expanduser()
  if str(path) == "synthetic":
    return "synthetic"
  if not root.exists():
    raise FileNotFoundError(f"{str(root)!r} does not exist; set config.data.args.path to a recording: an "
                            ".npz, an .hdf5, or a folder (see jepa/data/recordings)")
  if root.is_dir():
    if (root / "meta" / "info.json").exists():
      return "lerobot"
    if (root / "pusht_demos.npz").exists():
      return "pusht"
    if len(list(root.glob("*.npz"))) == 1:
      return "donkey"
  elif (found := {".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5"}.get(root.suffix.lower())):
    return found
  raise ValueError(f"{str(root)!r} is no recording that is known: expected .npz, .h5 or .hdf5, a folder with "
                   "meta/info.json (LeRobot), with pusht_demos.npz, or with one .npz; or set "
                   f"config.data.args.format to one of {', '.join(config.names(__name__, 'read'))}")


def locate(path: str | Path, format: str = "") -> tuple[Path, str]:
  """(path, format), both checked; raises as `detect` does, and on an unknown format."""
  if format:
    config.module(format, __name__, "read")
  root = Path(path).expanduser()
  if not format or not root.exists() and format != "synthetic":
    return root, detect(path)       # says so where there is nothing
  return root, format
