"""Windows of recorded episodes: frames, the actions between them and the state of the body.

`load` reads a whole recording; `trajectories` cuts it into windows and splits it by episode. A window of T frames, k
recorded steps apart, that starts at step s of its episode:

  image_t = frame[s + k t],  position_t = state[s + k t],  action_t = (a[s + k t], ..., a[s + k t + k - 1]),
  t = 0 ... T-1;  the last action of a window is that of t = T-2.

What can be read (`format`, by default told from the files):

  npz        one .npz of "action" f32 [S A], "episode_ends" int [E], optional "state" f32 [S P], and "image" uint8
             [S H W C], or "encoded" uint8 [bytes] with "offsets" int [S+1]: image i is those from offsets[i] on
  donkey     a folder with one such .npz, whose images are called "webp"
  hdf5       the same names in one .h5 or .hdf5 file; or a group an episode with "actions" and "obs" (robomimic)
  lerobot    a folder with meta/info.json and data/**/*.parquet; images in the tables, or videos one an episode
  pusht      a folder with pusht_demos.npz and frames/EEE.webp, a grid of 8 columns for each episode
  synthetic  a dot that its actions push about; no file (path="synthetic"), for tests

Shape letters: S steps of all episodes, E episodes, T frames, k recorded steps a step, A action, P state, H W C image.
"""
from collections.abc import Callable, Sequence
import difflib
import functools
import importlib
import json
from pathlib import Path
import re
from typing import Any, NamedTuple
import zipfile
import zlib

from absl import logging
import numpy as np

from jepa.data import order, reader as readers, source as sources, splits
from jepa.data.images import decode
from jepa.data.source import Source

LIMIT = 4.0                         # GiB of decoded frames
_HELD_OUT = 3                       # entropy of the split by episode
_POSITION = {"pusht": (0, 1)}       # columns of the state that are proprioception: the agent, not the block
_COLUMNS, _SIDE = 8, 96             # of a grid of PushT frames
_ENCODED = ("encoded", "webp")
# robomimic's names of what an arm knows of itself
_BODY = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


class Recording(NamedTuple):
  """Episodes, one after the other."""

  image: np.ndarray                 # uint8 [S H W C]; [S 0 0 0] where they were not asked for
  action: np.ndarray                # f32 [S A], taken at its frame; that of an episode's last frame leads nowhere
  state: np.ndarray                 # f32 [S P]; P is 0 where nothing is recorded
  ends: np.ndarray                  # int64 [E]: episode e is steps ends[e-1] ... ends[e] - 1


def trajectories(which: str, *, path: str, format: str = "", length: int = 16, frameskip: int = 1, stride: int = 1,
                 size: int = 0, camera: str = "", state: Sequence[int] | None = None,
                 test_share: float = splits.TEST_SHARE, seed: int = 0, normalise: bool = True,
                 limit: float = LIMIT) -> Source:
  """Windows of a recording, none of which crosses the end of an episode: "image" uint8 [T H W C], "action" f32
  [T-1 k*A], "position" f32 [T P] (absent where no state is recorded), all raw; "index" is the first step's.

  Frames are in memory once, for both splits; a batch gathers its own.

  Args:
    which: the split, of episodes: "train", "test", "all", slices and sums of them.
    path, format, size, camera, limit: of `load`. length: T. frameskip: k. stride: steps between starts of windows.
    state: columns of the state that are the position; None: x, y of the agent for "pusht", all for the others.
    test_share, seed: which episodes are held out. normalise: means and standard deviations of this split's episodes,
      by column, go into the model (see jepa/experiment.py).

  Raises:
    ValueError: windows longer than every episode, columns that do not exist; and what `load` raises.
  """
  for name, value, least in (("length", length, 2), ("frameskip", frameskip, 1), ("stride", stride, 1)):
    if value < least:
      raise ValueError(f"{name} = {value}: at least {least} (config.data.args.{name})")
  root, found = _located(path, format)
  stamp = root.stat().st_mtime_ns if root.exists() else 0
  recording = _kept(path, found, size, camera, limit, stamp)
  spans = episodes(recording.ends)
  chosen = splits.select(which, split(len(spans), test_share, seed))
  columns = _position(recording.state.shape[1], found, state)

  reach = frameskip * (length - 1)          # recorded steps from a window's first frame to its last
  start = np.concatenate([np.arange(first, last - reach, stride) for first, last in spans[chosen]])
  if not len(start):
    longest = int(np.max(spans[chosen, 1] - spans[chosen, 0]))
    raise ValueError(f"{str(path)!r}, {which}: no episode has the {reach + 1} steps of a window of {length} frames, "
                     f"{frameskip} apart; the longest of {len(chosen)} has {longest}. Set a smaller "
                     "config.data.args.length or frameskip")
  short = int(np.sum(spans[chosen, 1] - spans[chosen, 0] <= reach))
  if short:
    logging.info("%s, %s: %d of %d episodes are shorter than a window", path, which, short, len(chosen))

  frames, actions = frameskip * np.arange(length), np.arange(reach).reshape(length - 1, frameskip)
  arrays = {"image": Windows(recording.image, start, frames), "action": Windows(recording.action, start, actions)}
  if len(columns):
    arrays["position"] = Windows(recording.state[:, columns], start, frames)
  arrays |= {"label": np.full(len(start), -1, np.int32), "index": start.astype(np.int32)}
  shape = arrays["image"].shape[1:]
  steps = np.concatenate([np.arange(*span) for span in spans[chosen]])
  normaliser = {"action": sources.moments(recording.action[steps], repeat=frameskip)}
  if len(columns):
    normaliser["position"] = sources.moments(recording.state[steps][:, columns])
  return Source(
      length=len(start), classes=0, shape=shape, get=functools.partial(sources.row, arrays), arrays=arrays,
      describe=f"{found} {root.name}, {which}, {len(start)} windows of {length} frames "
               f"{'x'.join(map(str, shape[1:]))}, {frameskip} steps apart, stride {stride}, of {len(chosen)} "
               f"episodes (held out: {test_share:g}, seed {seed})",
      normaliser=normaliser if normalise else None)


class Windows:
  """Windows of [S ...] as an array [N T ...] that exists only where it is indexed.

  Steps [T] or, side by side in the last axis, [T k] after each start.
  """

  def __init__(self, data: np.ndarray, start: np.ndarray, steps: np.ndarray):
    self._data, self._start, self._steps, self.dtype = data, start, steps, data.dtype
    wide = data.shape[1:] if steps.ndim == 1 else (steps.shape[1] * data.shape[1],)
    self.shape = (len(start), len(steps), *wide)

  def __len__(self) -> int:
    return len(self._start)

  def __getitem__(self, i) -> np.ndarray:
    start = self._start[i]
    found = np.take(self._data, start[..., *[None] * self._steps.ndim] + self._steps, axis=0)
    return found.reshape(*start.shape, *self.shape[1:])

  def take(self, i: np.ndarray, axis: int = 0) -> np.ndarray:
    """As of an array; only axis 0 can be taken from."""
    if axis:
      raise ValueError(f"axis {axis}: windows are taken along axis 0")
    return self[i]


@functools.lru_cache(maxsize=1)
def _kept(path, format, size, camera, limit, stamp) -> Recording:
  """`load`, once for both splits; `stamp` tells a file that has changed."""
  del stamp
  recording = load(path, format=format, size=size, camera=camera, limit=limit)
  for x in recording:
    x.flags.writeable = False
  return recording


def _position(width: int, format: str, wanted: Sequence[int] | None) -> np.ndarray:
  if wanted is None:
    return np.array(_POSITION.get(format, range(width)), int)
  if bad := [c for c in wanted if not (isinstance(c, int) and 0 <= c < width)]:
    raise ValueError(f"config.data.args.state: there is no column {bad[0]!r}; the recorded state has {width}")
  return np.array(wanted, int)


class _Files(NamedTuple):
  """A recording whose frames are still to be decoded."""

  frames: Callable[[int], np.ndarray]       # episode -> uint8 [n H W C]
  action: np.ndarray
  state: np.ndarray | None
  ends: np.ndarray


def load(path: str | Path, *, format: str = "", size: int = 0, camera: str = "", images: bool = True,
         limit: float = LIMIT) -> Recording:
  """Reads a recording whole.

  Args:
    format: see the module's docstring; "" tells it from the files. size: frames are resized to size x size, their
      aspect not kept; 0 leaves them. camera: which images, where there are several. images: False leaves them out.
    limit: GiB of frames (after resizing) beyond which the recording is refused.

  Raises:
    FileNotFoundError: what is missing where. ValueError: an unknown format, a damaged file, lengths that do not fit
      together, actions or states that are not finite, several cameras, too many frames. ImportError: what to install.
  """
  root, name = _located(path, format)
  files = READERS[name](root, camera)
  action, state = (_numbers(x, k, root) for x, k in ((files.action, "action"), (files.state, "state")))
  if files.state is None:
    state = np.zeros((len(action), 0), np.float32)
  ends = _ends(files.ends, len(action), root)
  if len(state) != len(action):
    raise ValueError(f"{str(root)!r}: {len(action)} actions and {len(state)} states; every step has one of each")
  spans = episodes(ends)
  _finite(action, "action", spans, root)
  _finite(state, "state", spans, root)
  image = _frames(files.frames, spans, size, limit, root) if images else np.zeros((len(action), 0, 0, 0), np.uint8)
  return Recording(image, action, state, ends)


def episodes(ends: np.ndarray) -> np.ndarray:
  """int64 [E 2]: the first step of each episode and the one after its last."""
  return np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)


def split(count: int, test_share: float = splits.TEST_SHARE, seed: int = 0) -> dict[str, np.ndarray]:
  """{"train", "test"}: ascending numbers of the episodes; a share, at least one, is held out, drawn by `seed`.

  Raises:
    ValueError: a share outside (0, 1), or fewer than two episodes.
  """
  if not 0 < test_share < 1:
    raise ValueError(f"test_share = {test_share}: must be between 0 and 1 (config.data.args.test_share)")
  if count < 2:
    raise ValueError(f"{count} episode: a split by episode needs two at least")
  held = min(count - 1, max(1, int(test_share * count + 0.5)))
  drawn = order.shuffled(count, _HELD_OUT, seed)
  return {"train": np.sort(drawn[held:]), "test": np.sort(drawn[:held])}


# Which format


def detect(path: str | Path) -> str:
  """The format of a path; see the module's docstring.

  Raises:
    FileNotFoundError: it does not exist. ValueError: none fits; says which there are.
  """
  root = Path(path).expanduser()
  if str(path) == "synthetic":
    return "synthetic"
  if not root.exists():
    raise FileNotFoundError(f"{str(root)!r} does not exist; set config.data.args.path to a recording: an .npz, an "
                            ".hdf5, or a folder (see jepa/data/trajectories.py)")
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
                   "meta/info.json (LeRobot), with pusht_demos.npz, or with one .npz; or set config.data.args.format "
                   f"to one of {', '.join(READERS)}")


def _located(path: str | Path, format: str) -> tuple[Path, str]:
  """(path, format), both checked."""
  if format and format not in READERS:
    near = difflib.get_close_matches(format, READERS, 1)
    raise ValueError(f"format {format!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
                     f"Known: {', '.join(READERS)}")
  root = Path(path).expanduser()
  if not format or not root.exists() and format != "synthetic":
    return root, detect(path)       # says so where there is nothing
  return root, format


# Readers: (path, camera) -> _Files


def _npz(root: Path, camera: str) -> _Files:
  data = _arrays(root, ("image", *_ENCODED, "offsets", "action", "state", "episode_ends"))
  for key in ("action", "episode_ends"):
    _needed(data, key, root)
  ends, count = _ends(data["episode_ends"], len(data["action"]), root), len(data["action"])
  if "image" in data:
    if len(data["image"]) != count:
      raise ValueError(f"{str(root)!r}: {len(data['image'])} images and {count} actions; every step has one of each")
    frames = lambda first, last: data["image"][first:last]
  else:
    encoded = next((data[k] for k in _ENCODED if k in data), None)
    if encoded is None:
      _needed(data, "image", root)
    offsets = _needed(data, "offsets", root)
    if encoded.dtype != np.uint8 or offsets.shape != (count + 1,) or (np.diff(offsets) < 0).any() or (
        offsets[0] < 0 or offsets[-1] > len(encoded)):
      raise ValueError(f"{str(root)!r}: {len(encoded)} bytes of images with offsets {offsets.shape} up to "
                       f"{offsets[-1] if len(offsets) else 'nothing'}; expected uint8, and {count + 1} ascending "
                       "offsets within it. The file may be cut short: copy it again")
    frames = lambda first, last: np.stack([_decoded(encoded[offsets[i]:offsets[i + 1]].tobytes())
                                           for i in range(first, last)])
  spans = episodes(ends)
  return _Files(lambda e: frames(*spans[e]), data["action"], data.get("state"), ends)


def _donkey(root: Path, camera: str) -> _Files:
  return _npz(_only(root, "*.npz") if root.is_dir() else root, camera)


def _hdf5(root: Path, camera: str) -> _Files:
  h5py = _imported("h5py", "h5py", "an HDF5 file")
  try:
    with h5py.File(root, "r") as file:
      return (_flat if "episode_ends" in file else _groups)(h5py, file, root, camera)
  except OSError as error:
    raise ValueError(f"{str(root)!r} cannot be read as HDF5 ({error}): it is cut short or altered; copy it "
                     "again") from error


def _flat(h5py, file, root: Path, camera: str) -> _Files:
  data = {k: file[k][()] for k in ("action", "state", "episode_ends") if k in file} | {"": np.array(list(file))}
  action, ends = (_needed(data, k, root) for k in ("action", "episode_ends"))
  shape = _needed({k: v.shape for k, v in file.items() if hasattr(v, "shape")} | {"": data[""]}, "image", root)
  if shape[0] != len(action):
    raise ValueError(f"{str(root)!r}: {shape[0]} images and {len(action)} actions; every step has one of each")
  spans = episodes(_ends(ends, len(action), root))

  def frames(e: int) -> np.ndarray:
    with h5py.File(root, "r") as file:
      return file["image"][slice(*spans[e])]
  return _Files(frames, action, data.get("state"), ends)


def _groups(h5py, file, root: Path, camera: str) -> _Files:
  """A group an episode; the state is obs/state, or what robomimic calls the end effector and the gripper."""
  top = file["data"] if "data" in file else file
  number = lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
  episode = lambda group: isinstance(group, h5py.Group) and "actions" in group and "obs" in group
  names = sorted((k for k, v in top.items() if episode(v)), key=number)
  if not names:
    raise ValueError(f"{str(root)!r} holds {', '.join(top) or 'nothing'}: neither episode_ends (with image, action) "
                     "nor a group an episode with actions and obs, as in data/demo_0")
  obs = top[names[0]]["obs"]
  camera = _camera([k for k, v in obs.items() if v.ndim == 4 and v.dtype == np.uint8], camera, root)
  body = ["state"] if "state" in obs else [k for k in _BODY if k in obs]
  action, state = [], []
  for name in names:
    demo = top[name]
    if missing := [k for k in (camera, *body) if k not in demo["obs"]]:
      raise ValueError(f"{str(root)!r}: {name}/obs has no {missing[0]!r}, which {names[0]} has")
    lengths = {"actions": len(demo["actions"])} | {k: len(demo["obs"][k]) for k in (camera, *body)}
    if len(set(lengths.values())) > 1:
      raise ValueError(f"{str(root)!r}: lengths in {name} differ: {lengths}; every step has one of each")
    action.append(demo["actions"][()])
    state.append([demo["obs"][k][()] for k in body])

  def frames(e: int) -> np.ndarray:
    with h5py.File(root, "r") as file:
      return (file["data"] if "data" in file else file)[names[e]]["obs"][camera][()]
  state = np.concatenate([np.concatenate(x, -1) for x in state]) if body else None
  return _Files(frames, np.concatenate(action), state, np.cumsum([len(a) for a in action]))


def _lerobot(root: Path, camera: str) -> _Files:
  """Versions 2 and, with images in its tables, 3."""
  parquet = _imported("pyarrow.parquet", "pyarrow", "a LeRobot folder")
  meta = root / "meta" / "info.json"
  try:
    info = json.loads(meta.read_text())
    features = {k: v["dtype"] for k, v in info["features"].items()}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{str(meta)!r} is no description of a LeRobot set ({type(error).__name__}: {error}); copy it "
                     "again") from error
  camera = _camera([k for k, kind in features.items() if kind in ("image", "video")], camera, root)
  video = features[camera] == "video"
  names = ["action", "episode_index", "frame_index", *([] if video else [camera])]
  names += ["observation.state"] if "observation.state" in features else []
  files = sorted((root / "data").rglob("*.parquet"))
  if not files:
    raise FileNotFoundError(f"no .parquet in {str(root / 'data')!r}; copy the whole set")
  columns = {k: [] for k in names}
  for file in files:
    try:
      table = parquet.read_table(file, columns=names)
      found = {k: table.column(k).to_pylist() for k in names}
    except (OSError, ValueError, KeyError) as error:
      raise ValueError(f"{str(file)!r} cannot be read ({type(error).__name__}: {error}); it is cut short, or lacks "
                       f"one of {', '.join(names)}: copy it again") from error
    for k in names:
      columns[k] += found[k]
  episode, frame = (np.array(columns[k], np.int64) for k in ("episode_index", "frame_index"))
  ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
  spans = episodes(ends)
  number = episode[spans[:, 0]]
  whole = len(np.unique(number)) == len(number) and all(
      np.array_equal(frame[a:b], np.arange(b - a)) for a, b in spans)
  told = info.get("total_episodes", len(ends)), info.get("total_frames", len(frame))
  if not whole or told != (len(ends), len(frame)):
    raise ValueError(f"{str(root)!r}: the tables hold {len(ends)} episodes and {len(frame)} frames"
                     f"{'' if whole else ', not each from its frame 0 on and once'}; meta/info.json says {told[0]} "
                     f"and {told[1]}. Files are missing or mixed: copy the set again")
  if video:
    frames = _videos(root, info, camera, number)
  else:
    frames = lambda e: np.stack([_decoded(x.get("bytes") or (root / x["path"]).read_bytes())
                                 for x in columns[camera][slice(*spans[e])]])
  state = _rows(columns.get("observation.state"), "state", root)
  return _Files(frames, _rows(columns["action"], "action", root), state, ends)


def _videos(root: Path, info: dict, camera: str, number: np.ndarray) -> Callable[[int], np.ndarray]:
  av = _imported("av", "av", f"the videos of {str(root)!r}")
  path, chunk = info.get("video_path") or "", info.get("chunks_size", 1000)
  if "{episode_index" not in path:
    raise ValueError(f"{str(root)!r}: only videos of one episode each can be read (LeRobot 2), and video_path is "
                     f"{path!r}; convert the set to images or to version 2.1")

  def frames(e: int) -> np.ndarray:
    file = root / path.format(episode_chunk=number[e] // chunk, video_key=camera, episode_index=number[e])
    with av.open(str(file)) as container:
      return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
  return frames


def _pusht(root: Path, camera: str) -> _Files:
  root = root if root.is_dir() else root.parent
  file = root / "pusht_demos.npz"
  if not file.exists():
    raise FileNotFoundError(f"{str(file)!r} does not exist; a folder of PushT holds it and frames/EEE.webp")
  data = _arrays(file, ("action", "state", "episode_ends"))
  for key in ("action", "state", "episode_ends"):
    _needed(data, key, file)
  spans = episodes(_ends(data["episode_ends"], len(data["action"]), file))

  def frames(e: int) -> np.ndarray:
    grid, count = _decoded((root / "frames" / f"{e:03d}.webp").read_bytes()), spans[e, 1] - spans[e, 0]
    rows = -(-count // _COLUMNS)
    if grid.shape != (rows * _SIDE, _COLUMNS * _SIDE, 3):
      raise ValueError(f"a grid of {grid.shape}; {count} frames of {_SIDE}x{_SIDE} need "
                       f"{(rows * _SIDE, _COLUMNS * _SIDE, 3)}")
    tiles = grid.reshape(rows, _SIDE, _COLUMNS, _SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, _SIDE, _SIDE, 3)[:count]
  return _Files(frames, data["action"], data["state"], data["episode_ends"])


def _synthetic(root: Path, camera: str) -> _Files:
  """A dot in the unit square, its position the sum of the actions; 12 episodes of 12 to 23 steps."""
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
  return _Files(lambda e: image[slice(*spans[e])], action, state, ends)


READERS = {"npz": _npz, "donkey": _donkey, "hdf5": _hdf5, "lerobot": _lerobot, "pusht": _pusht,
           "synthetic": _synthetic}


# Parts of readers


def _arrays(file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
  """Those of `keys` that an .npz holds. Nothing is ever unpickled."""
  try:
    with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as data:
      return {k: data[k] for k in data.files if k in keys} | {"": np.array(data.files)}
  except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f"{str(file)!r} cannot be read as plain NumPy arrays ({error}): it is cut short, altered, or "
                     "holds objects, which are refused since loading them runs code. Copy it again, or write it with "
                     "numpy.savez") from error


def _needed(data: dict[str, np.ndarray], key: str, file: Path) -> np.ndarray:
  if key in data:
    return data[key]
  held = [str(k) for k in data.get("", [])]
  near = difflib.get_close_matches(key, held, 1)
  raise ValueError(f"{str(file)!r} has no {key!r}{f'; did you mean it by {near[0]!r}?' if near else '.'} It holds "
                   f"{', '.join(held) or 'nothing'}; see the layouts in jepa/data/trajectories.py")


def _only(root: Path, pattern: str) -> Path:
  found = sorted(root.glob(pattern))
  if len(found) != 1:
    raise FileNotFoundError(f"{str(root)!r} holds {len(found)} files {pattern}; name the one that is meant as "
                            "config.data.args.path")
  return found[0]


def _imported(module: str, package: str, what: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f"{what} needs {module}: pip install {package}") from error


def _camera(found: list[str], wanted: str, root: Path) -> str:
  if wanted in found or (not wanted and len(found) == 1):
    return wanted or found[0]
  said = f"no camera {wanted!r}" if wanted else f"{len(found)} cameras"
  raise ValueError(f"{str(root)!r} has {said}; set config.data.args.camera to one of: "
                   f"{', '.join(found) or 'none found'}")


def _rows(values: list | None, key: str, root: Path) -> np.ndarray | None:
  """[S columns] of a list of numbers or of lists."""
  if values is None:
    return None
  try:
    return np.array(values, np.float32).reshape(len(values), -1)
  except (ValueError, TypeError) as error:
    raise ValueError(f"{str(root)!r}: rows of {key} differ in length or hold no numbers ({error})") from error


def _decoded(data: bytes) -> np.ndarray:
  return decode(data, size=None, channels=3)


def _numbers(x: np.ndarray | None, key: str, root: Path) -> np.ndarray | None:
  if x is None:
    return None
  if x.ndim != 2 or x.dtype.kind not in "fiub" or 0 in x.shape:
    raise ValueError(f"{str(root)!r}: {key} is {x.dtype} {x.shape}; expected numbers [steps, columns]")
  return np.ascontiguousarray(x, np.float32)


def _ends(ends: np.ndarray, count: int, root: Path) -> np.ndarray:
  ends = np.asarray(ends)
  if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends) or ends[-1] != count or (
      np.diff(ends.astype(np.int64), prepend=0) <= 0).any():
    last = f" up to {ends[-1]}" if ends.ndim == 1 and len(ends) else ""
    raise ValueError(f"{str(root)!r}: episode_ends is {ends.dtype} {ends.shape}{last}; expected ascending integers, "
                     f"the last of them the number of steps, {count}")
  return ends.astype(np.int64)


def _finite(x: np.ndarray, key: str, spans: np.ndarray, root: Path) -> None:
  bad = np.flatnonzero(~np.isfinite(x).all(1))
  if len(bad):
    e = int(np.searchsorted(spans[:, 1], bad[0], side="right"))
    raise ValueError(f"{str(root)!r}: {key} of step {bad[0] - spans[e, 0]} of episode {e} is not finite ({len(bad)} "
                     "such steps in all); remove those episodes or repair them")


def _frames(frames: Callable[[int], np.ndarray], spans: np.ndarray, size: int, limit: float,
            root: Path) -> np.ndarray:
  """uint8 [S H W C] of every episode, decoded in threads into one array."""
  def read(e: int) -> np.ndarray:
    try:
      found = frames(e)
    except (MemoryError, ImportError):
      raise
    except Exception as error:      # Pillow's formats raise anything on damaged files
      raise ValueError(f"{str(root)!r}: the frames of episode {e} cannot be read ({type(error).__name__}: {error}); "
                       "copy them again") from error
    count = spans[e, 1] - spans[e, 0]
    if found.dtype != np.uint8 or found.ndim != 4 or len(found) != count or 0 in found.shape:
      raise ValueError(f"{str(root)!r}: the frames of episode {e} are {found.dtype} {found.shape}; expected uint8 "
                       f"[{count} H W C], a frame a step")
    return _resized(found, size)

  first = read(0)
  shape = (int(spans[-1, 1]), *first.shape[1:])
  if (needed := np.prod(shape, dtype=np.float64) / 2**30) > limit:
    raise ValueError(f"{str(root)!r}: {shape[0]} frames of {first.shape[1:]} take {needed:.1f} GiB of memory, more "
                     f"than limit = {limit:g}; set a smaller config.data.args.size, or raise config.data.args.limit")
  image = np.empty(shape, np.uint8)

  def fill(e: int) -> None:
    found = first if e == 0 else read(e)
    if found.shape[1:] != shape[1:]:
      raise ValueError(f"{str(root)!r}: frames of episode {e} are {found.shape[1:]} and those of the first one "
                       f"{shape[1:]}; set config.data.args.size")
    image[slice(*spans[e])] = found
  readers.in_threads(fill, range(len(spans)), f"frames of {root.name}", unit="episode", piece=2)
  return image


def _resized(image: np.ndarray, size: int) -> np.ndarray:
  """uint8 [n H W C] -> [n size size C], bilinear and antialiased."""
  if not size or image.shape[1:3] == (size, size):
    return image
  from PIL import Image
  one = lambda x: np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR))
  if image.shape[-1] == 3:
    return np.stack([one(x) for x in image])
  return np.stack([np.stack([one(np.ascontiguousarray(x[..., c])) for c in range(x.shape[-1])], -1) for x in image])
