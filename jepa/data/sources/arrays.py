"""Images in .npz or .npy files; "npz" and "npy" name the same source.

Shape letters: N images, H W C image.
"""
from pathlib import Path

import numpy as np

from jepa.data import splits
from jepa.data.source import Source


def make(split: str, *, path: str, labels: str = "", test_share: float = splits.TEST_SHARE) -> Source:
  """Images in NumPy files; nothing is ever unpickled.

  Images are [N H W] or [N H W C] with C 1 or 3: uint8; other integers and booleans of 0..255 and 0/1; or
  floats in [0, 1], which become round(255 x). Labels are integers [N], -1 for none; without labels the source
  is unlabelled.

  Args:
    path: .npz with image(s) or x and, optionally, label(s) or y; with x_train, y_train, x_test, y_test its
      own split; .npy with images; or a folder with train.npz and test.npz (or .npy). Without a test part, a
      fifth of every class is held out (`splits.holdout`).
    labels: .npy with the labels of a .npy.

  Raises:
    FileNotFoundError, ValueError: what is wrong with which file, and what is expected.
  """
  root = Path(path).expanduser()
  if not root.exists():
    raise FileNotFoundError(f"{str(root)!r} does not exist; set config.data.args.path to a .npz or .npy "
                            "file, or a folder with train.npz and test.npz")
  found = {}
  if root.is_dir():
    for part in ("train", "test"):
      file = next((root / f"{part}{s}" for s in (".npz", ".npy") if (root / f"{part}{s}").exists()), None)
      if file is None:
        raise FileNotFoundError(f"no {part}.npz or {part}.npy in {str(root)!r}")
      found[part] = _pair(_read(file), file)
  else:
    data = _read(root)
    if labels:
      data["label"] = _read(Path(labels).expanduser())["image"]
    if "x_train" in data and "x_test" in data:
      for part in ("train", "test"):
        of_part = {k.removesuffix(f"_{part}"): v for k, v in data.items() if k.endswith(f"_{part}")}
        found[part] = _pair(of_part, root)
    else:
      found["all"] = _pair(data, root)
  if len({image.shape[1:] for image, _ in found.values()}) > 1:
    raise ValueError(f"{root}: images of train and test differ in shape: "
                     f"{', '.join(f'{k} {i.shape}' for k, (i, _) in found.items())}")
  image, label = (np.concatenate(x) if len(x) > 1 else x[0] for x in zip(*found.values()))
  if "all" in found:
    parts = splits.holdout(label, test_share)
  else:
    n = len(found["train"][0])
    parts = {"train": np.arange(n), "test": np.arange(n, len(image))}
  return splits.source_of(f"arrays {root.name}", split, image, label, parts)


def _read(file: Path) -> dict[str, np.ndarray]:
  try:
    data = np.load(file, allow_pickle=False)
    return {"image": data} if isinstance(data, np.ndarray) else {k: data[k] for k in data.files}
  except (ValueError, OSError, EOFError) as error:
    if isinstance(error, FileNotFoundError):
      raise
    raise ValueError(f"{str(file)!r} cannot be read as plain NumPy arrays ({error}). Objects and pickles are "
                     "refused, since loading them runs code: save images as uint8 [N H W C] and labels as "
                     "int [N] with numpy.savez") from error


def _pair(data: dict[str, np.ndarray], file: Path) -> tuple[np.ndarray, np.ndarray]:
  """Checked (uint8 [N H W C], int32 [N]) of a file's arrays."""
  image = next((data[k] for k in ("image", "images", "x") if k in data), None)
  label = next((data[k] for k in ("label", "labels", "y") if k in data), None)
  if image is None:
    raise ValueError(f"{str(file)!r} holds {', '.join(data) or 'nothing'}; expected image (or images, x) "
                     "and, optionally, label (or labels, y)")
  image = _pixels(_axes(image, file), file)
  if label is None:
    return image, np.full(len(image), -1, np.int32)
  whole = label.shape == (len(image),) and np.all(label == np.floor(label))
  if not whole or label.min() < -1 or label.max() >= 2**31:
    raise ValueError(f"{str(file)!r}: labels are {label.dtype} {label.shape}; expected {len(image)} integers "
                     "from 0, or -1 for none")
  return image, label.astype(np.int32)


def _axes(image: np.ndarray, file: Path) -> np.ndarray:
  """[N H W C] of what a file holds. The one place that tells axes apart: clips, [N T H W C], come in here."""
  if image.ndim == 3:
    image = image[..., None]
  if image.ndim != 4 or image.shape[-1] not in (1, 3) or 0 in image.shape:
    first = image.ndim == 4 and image.shape[1] in (1, 3)
    hint = "; move the channels last: numpy.moveaxis(x, 1, -1)" if first else ""
    raise ValueError(f"{str(file)!r}: images have shape {image.shape}; expected [N H W] or [N H W C] with "
                     f"N > 0 and C 1 or 3{hint}")
  return image


def _pixels(image: np.ndarray, file: Path) -> np.ndarray:
  """uint8 of the same shape."""
  if image.dtype == np.uint8:
    return image
  if image.dtype == bool:
    return image.astype(np.uint8) * np.uint8(255)
  if image.dtype.kind not in "iuf":
    raise ValueError(f"{str(file)!r}: images are {image.dtype}; expected uint8, or floats in [0, 1]")
  low, high, top = image.min(), image.max(), 1 if image.dtype.kind == "f" else 255
  if not (low >= 0 and high <= top):                # also refuses NaN
    raise ValueError(f"{str(file)!r}: {image.dtype} images have values from {low} to {high}; floats must lie "
                     "in [0, 1] and integers in 0..255. Undo their normalisation and save them as uint8")
  return np.round(image * 255.0).astype(np.uint8) if top == 1 else image.astype(np.uint8)
