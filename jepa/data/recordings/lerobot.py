"""A LeRobot folder with meta/info.json and data/**/*.parquet: version 2, its images in the tables or in a
video an episode, and version 3 with images in its tables."""
from collections.abc import Callable
import json
from pathlib import Path

import numpy as np

from jepa.data.recordings.files import Files, camera_of, decoded, episodes, imported


def read(root: Path, camera: str) -> Files:
  info, features = _described(root / "meta" / "info.json")
  camera = camera_of([k for k, kind in features.items() if kind in ("image", "video")], camera, root)
  video = features[camera] == "video"
  names = ["action", "episode_index", "frame_index", *([] if video else [camera])]
  names += ["observation.state"] if "observation.state" in features else []
  columns = _columns(root, names)
  episode, frame = (np.array(columns[k], np.int64) for k in ("episode_index", "frame_index"))
  ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
  spans = episodes(ends)
  number = episode[spans[:, 0]]
  whole = len(np.unique(number)) == len(number) and all(
      np.array_equal(frame[a:b], np.arange(b - a)) for a, b in spans)
  told = info.get("total_episodes", len(ends)), info.get("total_frames", len(frame))
  if not whole or told != (len(ends), len(frame)):
    raise ValueError(f"{str(root)!r}: the tables hold {len(ends)} episodes and {len(frame)} frames"
                     f"{'' if whole else ', not each from its frame 0 on and once'}; meta/info.json says "
                     f"{told[0]} and {told[1]}. Files are missing or mixed: copy the set again")
  if video:
    frames = _videos(root, info, camera, number)
  else:
    frames = lambda e: np.stack([decoded(x.get("bytes") or (root / x["path"]).read_bytes())
                                 for x in columns[camera][slice(*spans[e])]])
  state = _rows(columns["observation.state"], "state", root) if "observation.state" in columns else None
  return Files(frames, _rows(columns["action"], "action", root), state, ends)


def _described(meta: Path) -> tuple[dict, dict[str, str]]:
  """(what info.json says, dtype of each feature)."""
  try:
    info = json.loads(meta.read_text())
    return info, {k: v["dtype"] for k, v in info["features"].items()}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{str(meta)!r} is no description of a LeRobot set ({type(error).__name__}: {error}); "
                     "copy it again") from error


def _columns(root: Path, names: list[str]) -> dict[str, list]:
  """Those columns of all tables, one after the other."""
  parquet = imported("pyarrow.parquet", "pyarrow", "a LeRobot folder")
  files = sorted((root / "data").rglob("*.parquet"))
  if not files:
    raise FileNotFoundError(f"no .parquet in {str(root / 'data')!r}; copy the whole set")
  columns = {k: [] for k in names}
  for file in files:
    try:
      table = parquet.read_table(file, columns=names)
      found = {k: table.column(k).to_pylist() for k in names}
    except (OSError, ValueError, KeyError) as error:
      raise ValueError(f"{str(file)!r} cannot be read ({type(error).__name__}: {error}); it is cut short, or "
                       f"lacks one of {', '.join(names)}: copy it again") from error
    for k in names:
      columns[k] += found[k]
  return columns


def _videos(root: Path, info: dict, camera: str, number: np.ndarray) -> Callable[[int], np.ndarray]:
  av = imported("av", "av", f"the videos of {str(root)!r}")
  path, chunk = info.get("video_path") or "", info.get("chunks_size", 1000)
  if "{episode_index" not in path:
    raise ValueError(f"{str(root)!r}: only videos of one episode each can be read (LeRobot 2), and "
                     f"video_path is {path!r}; convert the set to images or to version 2.1")

  def frames(e: int) -> np.ndarray:
    file = root / path.format(episode_chunk=number[e] // chunk, video_key=camera, episode_index=number[e])
    with av.open(str(file)) as container:
      return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
  return frames


def _rows(values: list, key: str, root: Path) -> np.ndarray:
  """f32 [S columns] of a list of numbers or of lists."""
  try:
    return np.array(values, np.float32).reshape(len(values), -1)
  except (ValueError, TypeError) as error:
    raise ValueError(f"{str(root)!r}: rows of {key} differ in length or hold no numbers ({error})") from error
