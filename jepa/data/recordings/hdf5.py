"""One .h5 or .hdf5 file, either with the names of npz.py ("image", "action", "state", "episode_ends"), or a
group an episode with "actions" and "obs" (robomimic)."""
from pathlib import Path
import re

import numpy as np

from jepa.data.recordings.files import Files, camera_of, ends_of, episodes, imported, needed

# robomimic's names of what an arm knows of itself
_BODY = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


def read(root: Path, camera: str) -> Files:
  h5py = imported("h5py", "h5py", "an HDF5 file")
  try:
    with h5py.File(root, "r") as file:
      return (_flat if "episode_ends" in file else _groups)(h5py, file, root, camera)
  except OSError as error:
    raise ValueError(f"{str(root)!r} cannot be read as HDF5 ({error}): it is cut short or altered; copy it "
                     "again") from error


def _flat(h5py, file, root: Path, camera: str) -> Files:
  held = {"": np.array(list(file))}
  data = {k: file[k][()] for k in ("action", "state", "episode_ends") if k in file} | held
  action, ends = (needed(data, k, root) for k in ("action", "episode_ends"))
  count = needed({k: v.shape for k, v in file.items() if hasattr(v, "shape")} | held, "image", root)[0]
  if count != len(action):
    raise ValueError(f"{str(root)!r}: {count} images and {len(action)} actions; every step has one of each")
  spans = episodes(ends_of(ends, len(action), root))

  def frames(e: int) -> np.ndarray:
    with h5py.File(root, "r") as file:
      return file["image"][slice(*spans[e])]
  return Files(frames, action, data.get("state"), ends)


def _groups(h5py, file, root: Path, camera: str) -> Files:
  """The state is obs/state, or what robomimic calls the end effector and the gripper."""
  top = file["data"] if "data" in file else file
  number = lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
  episode = lambda group: isinstance(group, h5py.Group) and "actions" in group and "obs" in group
  names = sorted((k for k, v in top.items() if episode(v)), key=number)
  if not names:
    raise ValueError(f"{str(root)!r} holds {', '.join(top) or 'nothing'}: neither episode_ends (with image, "
                     "action) nor a group an episode with actions and obs, as in data/demo_0")
  obs = top[names[0]]["obs"]
  camera = camera_of([k for k, v in obs.items() if v.ndim == 4 and v.dtype == np.uint8], camera, root)
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
  return Files(frames, np.concatenate(action), state, np.cumsum([len(a) for a in action]))
