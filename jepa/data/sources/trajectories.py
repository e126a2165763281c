"""Windows of recorded episodes: frames, the actions between them and the state of the body.

`recordings.read` reads a whole recording; here it is cut into windows and split by episode. A window of T
frames, k recorded steps apart, that starts at step s of its episode:

  image_t = frame[s + k t],  position_t = state[s + k t],  action_t = (a[s + k t], ..., a[s + k t + k - 1]),
  t = 0 ... T-1;  the last action of a window is that of t = T-2.

Shape letters: S steps of all episodes, N windows, T frames, k recorded steps a step, A action, P state,
H W C image.
"""
from collections.abc import Sequence
import functools

from absl import logging
import numpy as np

from jepa import config
from jepa.data import order, recordings, splits
from jepa.data.recordings import Recording, episodes
from jepa.data.source import Source, moments, row

_HELD_OUT = 3                       # entropy of the split by episode


def make(which: str, *, path: str, format: str = "", length: int = 16, frameskip: int = 1, stride: int = 1,
         size: int = 0, camera: str = "", state: Sequence[int] | None = None,
         test_share: float = splits.TEST_SHARE, seed: int = 0, normalise: bool = True,
         limit: float = recordings.LIMIT) -> Source:
  """Windows of a recording, none of which crosses the end of an episode: "image" uint8 [T H W C], "action"
  f32 [T-1 k*A], "position" f32 [T P] (absent where no state is recorded), all raw; "index" is the first
  step's.

  Frames are in memory once, for both splits; a batch gathers its own.

  Args:
    which: the split, of episodes: "train", "test", "all", slices and sums of them.
    path, format, size, camera, limit: of `recordings.read`.
    length: T. frameskip: k. stride: steps between starts of windows.
    state: columns of the state that are the position; None: those that the format names, such as x, y of the
      agent in PushT, or all.
    test_share, seed: which episodes are held out.
    normalise: means and standard deviations of this split's episodes, by column, go into the model (see
      jepa/wrappers.py).

  Raises:
    ValueError: windows longer than every episode, columns that do not exist; and what `recordings.read`
      raises.
  """
  for name, value, least in (("length", length, 2), ("frameskip", frameskip, 1), ("stride", stride, 1)):
    if value < least:
      raise ValueError(f"{name} = {value}: at least {least} (config.data.args.{name})")
  root, found = recordings.locate(path, format)
  stamp = root.stat().st_mtime_ns if root.exists() else 0
  recording = _kept(path, found, size, camera, limit, stamp)
  spans = episodes(recording.ends)
  chosen = splits.select(which, split(len(spans), test_share, seed))
  columns = _position(recording.state.shape[1], found, state)

  reach = frameskip * (length - 1)          # recorded steps from a window's first frame to its last
  start = np.concatenate([np.arange(first, last - reach, stride) for first, last in spans[chosen]])
  if not len(start):
    longest = int(np.max(spans[chosen, 1] - spans[chosen, 0]))
    raise ValueError(f"{str(path)!r}, {which}: no episode has the {reach + 1} steps of a window of {length} "
                     f"frames, {frameskip} apart; the longest of {len(chosen)} has {longest}. Set a smaller "
                     "config.data.args.length or frameskip")
  short = int(np.sum(spans[chosen, 1] - spans[chosen, 0] <= reach))
  if short:
    logging.info("%s, %s: %d of %d episodes are shorter than a window", path, which, short, len(chosen))

  frames, actions = frameskip * np.arange(length), np.arange(reach).reshape(length - 1, frameskip)
  arrays = {"image": Windows(recording.image, start, frames),
            "action": Windows(recording.action, start, actions)}
  if len(columns):
    arrays["position"] = Windows(recording.state[:, columns], start, frames)
  arrays |= {"label": np.full(len(start), -1, np.int32), "index": start.astype(np.int32)}
  shape = arrays["image"].shape[1:]
  steps = np.concatenate([np.arange(*span) for span in spans[chosen]])
  normaliser = {"action": moments(recording.action[steps], repeat=frameskip)}
  if len(columns):
    normaliser["position"] = moments(recording.state[steps][:, columns])
  return Source(
      length=len(start), classes=0, shape=shape, get=functools.partial(row, arrays), arrays=arrays,
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
  """`recordings.read`, once for both splits; `stamp` tells a file that has changed."""
  del stamp
  recording = recordings.read(path, format=format, size=size, camera=camera, limit=limit)
  for x in recording:
    x.flags.writeable = False
  return recording


def _position(width: int, format: str, wanted: Sequence[int] | None) -> np.ndarray:
  if wanted is None:
    named = getattr(config.module(format, recordings.__name__, "read"), "POSITION", range(width))
    return np.array(named, int)
  if bad := [c for c in wanted if not (isinstance(c, int) and 0 <= c < width)]:
    raise ValueError(f"config.data.args.state: there is no column {bad[0]!r}; the recorded state has {width}")
  return np.array(wanted, int)


def split(count: int, test_share: float = splits.TEST_SHARE, seed: int = 0) -> dict[str, np.ndarray]:
  """{"train", "test"}: ascending numbers of the episodes; a share, at least one, is held out, drawn by
  `seed`.

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
