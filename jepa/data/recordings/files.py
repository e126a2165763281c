"""What a format gives, and the checks that formats share.

Shape letters: S steps of all episodes, E episodes, n steps of one, A action, P state, H W C image.
"""
from collections.abc import Callable, Sequence
import difflib
import importlib
from pathlib import Path
from typing import Any, NamedTuple
import zipfile
import zlib

import numpy as np

from jepa.data import images, reader


class Files(NamedTuple):
  """A recording whose frames are still to be decoded."""

  frames: Callable[[int], np.ndarray]       # episode -> uint8 [n H W C]
  action: np.ndarray                        # [S A]
  state: np.ndarray | None                  # [S P]; None where nothing is recorded
  ends: np.ndarray                          # int [E]


def episodes(ends: np.ndarray) -> np.ndarray:
  """int64 [E 2]: the first step of each episode and the one after its last."""
  return np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)


# Reading


def imported(module: str, package: str, what: str) -> Any:
  """A library that only some formats need; `what` needs it."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f"{what} needs {module}: pip install {package}") from error


def arrays(file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
  """Those of `keys` that an .npz holds, and under "" the names of all. Nothing is ever unpickled."""
  try:
    with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as data:
      return {k: data[k] for k in data.files if k in keys} | {"": np.array(data.files)}
  except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f"{str(file)!r} cannot be read as plain NumPy arrays ({error}): it is cut short, "
                     "altered, or holds objects, which are refused since loading them runs code. Copy it "
                     "again, or write it with numpy.savez") from error


def needed(data: dict[str, Any], key: str, file: Path) -> Any:
  """data[key], or a ValueError that says what there is (under "", see `arrays`)."""
  if key in data:
    return data[key]
  held = [str(k) for k in data.get("", [])]
  near = difflib.get_close_matches(key, held, 1)
  raise ValueError(f"{str(file)!r} has no {key!r}{f'; did you mean it by {near[0]!r}?' if near else '.'} It "
                   f"holds {', '.join(held) or 'nothing'}; see the layouts in jepa/data/recordings")


def decoded(data: bytes) -> np.ndarray:
  """uint8 [H W 3] of an encoded image."""
  return images.decode(data, size=None, channels=3)


def camera_of(found: list[str], wanted: str, root: Path) -> str:
  """The camera that is wanted, or the only one."""
  if wanted in found or (not wanted and len(found) == 1):
    return wanted or found[0]
  said = f"no camera {wanted!r}" if wanted else f"{len(found)} cameras"
  raise ValueError(f"{str(root)!r} has {said}; set config.data.args.camera to one of: "
                   f"{', '.join(found) or 'none found'}")


# Checks


def numbers(x: np.ndarray | None, key: str, root: Path) -> np.ndarray | None:
  """f32 [S columns], contiguous."""
  if x is None:
    return None
  if x.ndim != 2 or x.dtype.kind not in "fiub" or 0 in x.shape:
    raise ValueError(f"{str(root)!r}: {key} is {x.dtype} {x.shape}; expected numbers [steps, columns]")
  return np.ascontiguousarray(x, np.float32)


def ends_of(ends: np.ndarray, count: int, root: Path) -> np.ndarray:
  """int64 [E], ascending up to the number of steps."""
  ends = np.asarray(ends)
  if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends) or ends[-1] != count or (
      np.diff(ends.astype(np.int64), prepend=0) <= 0).any():
    last = f" up to {ends[-1]}" if ends.ndim == 1 and len(ends) else ""
    raise ValueError(f"{str(root)!r}: episode_ends is {ends.dtype} {ends.shape}{last}; expected ascending "
                     f"integers, the last of them the number of steps, {count}")
  return ends.astype(np.int64)


def check_finite(x: np.ndarray, key: str, spans: np.ndarray, root: Path) -> None:
  """Refuses numbers [S columns] that are not finite; says which step of which episode."""
  bad = np.flatnonzero(~np.isfinite(x).all(1))
  if len(bad):
    e = int(np.searchsorted(spans[:, 1], bad[0], side="right"))
    raise ValueError(f"{str(root)!r}: {key} of step {bad[0] - spans[e, 0]} of episode {e} is not finite "
                     f"({len(bad)} such steps in all); remove those episodes or repair them")


def decode_all(frames: Callable[[int], np.ndarray], spans: np.ndarray, size: int, limit: float,
               root: Path) -> np.ndarray:
  """uint8 [S H W C] of every episode, decoded in threads into one array; size and limit as of `read`."""
  def one(e: int) -> np.ndarray:
    try:
      found = frames(e)
    except (MemoryError, ImportError):
      raise
    except Exception as error:      # Pillow's formats raise anything on damaged files
      raise ValueError(f"{str(root)!r}: the frames of episode {e} cannot be read "
                       f"({type(error).__name__}: {error}); copy them again") from error
    count = spans[e, 1] - spans[e, 0]
    if found.dtype != np.uint8 or found.ndim != 4 or len(found) != count or 0 in found.shape:
      raise ValueError(f"{str(root)!r}: the frames of episode {e} are {found.dtype} {found.shape}; expected "
                       f"uint8 [{count} H W C], a frame a step")
    return _resized(found, size)

  first = one(0)
  shape = (int(spans[-1, 1]), *first.shape[1:])
  if (gigabytes := np.prod(shape, dtype=np.float64) / 2**30) > limit:
    raise ValueError(f"{str(root)!r}: {shape[0]} frames of {first.shape[1:]} take {gigabytes:.1f} GiB of "
                     f"memory, more than limit = {limit:g}; set a smaller config.data.args.size, or raise "
                     "config.data.args.limit")
  image = np.empty(shape, np.uint8)

  def fill(e: int) -> None:
    found = first if e == 0 else one(e)
    if found.shape[1:] != shape[1:]:
      raise ValueError(f"{str(root)!r}: frames of episode {e} are {found.shape[1:]} and those of the first "
                       f"one {shape[1:]}; set config.data.args.size")
    image[slice(*spans[e])] = found
  reader.in_threads(fill, range(len(spans)), f"frames of {root.name}", unit="episode", piece=2)
  return image


def _resized(image: np.ndarray, size: int) -> np.ndarray:
  """uint8 [n H W C] -> [n size size C], bilinear and antialiased."""
  if not size or image.shape[1:3] == (size, size):
    return image
  from PIL import Image
  one = lambda x: np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR))
  if image.shape[-1] == 3:
    return np.stack([one(x) for x in image])
  channels = lambda x: (np.ascontiguousarray(x[..., c]) for c in range(x.shape[-1]))
  return np.stack([np.stack([one(c) for c in channels(x)], -1) for x in image])
