"""A Donkey car's track: a folder with one .npz (see npz.py), whose images are called "webp"."""
from pathlib import Path

from jepa.data.recordings import npz
from jepa.data.recordings.files import Files


def read(root: Path, camera: str) -> Files:
  if not root.is_dir():
    return npz.read(root, camera)
  found = sorted(root.glob("*.npz"))
  if len(found) != 1:
    raise FileNotFoundError(f"{str(root)!r} holds {len(found)} files *.npz; name the one that is meant as "
                            "config.data.args.path")
  return npz.read(found[0], camera)
