"""One .npz of "action" f32 [S A], "episode_ends" int [E], optional "state" f32 [S P], and "image" uint8
[S H W C], or "encoded" (or "webp") uint8 [bytes] with "offsets" int [S+1]: image i begins at offsets[i]."""
from pathlib import Path

import numpy as np

from jepa.data.recordings.files import Files, arrays, decoded, ends_of, episodes, needed

_ENCODED = ("encoded", "webp")


def read(root: Path, camera: str) -> Files:
  data = arrays(root, ("image", *_ENCODED, "offsets", "action", "state", "episode_ends"))
  for key in ("action", "episode_ends"):
    needed(data, key, root)
  ends, count = ends_of(data["episode_ends"], len(data["action"]), root), len(data["action"])
  if "image" in data:
    if len(data["image"]) != count:
      raise ValueError(f"{str(root)!r}: {len(data['image'])} images and {count} actions; every step has one "
                       "of each")
    frames = lambda first, last: data["image"][first:last]
  else:
    encoded = next((data[k] for k in _ENCODED if k in data), None)
    if encoded is None:
      needed(data, "image", root)
    offsets = needed(data, "offsets", root)
    if encoded.dtype != np.uint8 or offsets.shape != (count + 1,) or (np.diff(offsets) < 0).any() or (
        offsets[0] < 0 or offsets[-1] > len(encoded)):
      raise ValueError(f"{str(root)!r}: {len(encoded)} bytes of images with offsets {offsets.shape} up to "
                       f"{offsets[-1] if len(offsets) else 'nothing'}; expected uint8, and {count + 1} "
                       "ascending offsets within it. The file may be cut short: copy it again")
    frames = lambda first, last: np.stack([decoded(encoded[offsets[i]:offsets[i + 1]].tobytes())
                                           for i in range(first, last)])
  spans = episodes(ends)
  return Files(lambda e: frames(*spans[e]), data["action"], data.get("state"), ends)
