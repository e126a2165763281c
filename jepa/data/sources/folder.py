"""Image folders: one sub-folder per class, or images side by side without labels.

Splits, in this order: folders named after the split (PATH/train, PATH/test; a missing "test" is looked for as
"val" and "validation"); otherwise a fifth of every class is held out by a fixed draw over the sorted relative
paths (`splits.holdout`). Files without an image suffix are ignored and logged; hidden ones are ignored.
"""
from pathlib import Path

from absl import logging
import numpy as np

from jepa.data import reader, splits
from jepa.data.source import Source, from_arrays

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
                      ".pbm", ".jp2"))
_TEST = ("test", "val", "validation")


def make(split: str, *, path: str, size: int, channels: int = 3, test_share: float = splits.TEST_SHARE,
         in_memory: bool | None = None, max_bad: float = 0.01, check: int = 1024) -> Source:
  """Images of a folder, resized (shortest side) and centre-cropped to `size`.

  Labels are the ranks of the class folders by name; -1 where there are none. Unreadable files are counted,
  logged by name and skipped: those found while opening leave the source, others make `get` return None.

  Args:
    split: "train", "test", "all", slices of them ("train[:10%]"), or the name of a folder in `path`.
    in_memory: decode everything now; None: if it fits (`reader.FITS`).
    max_bad: share of unreadable images above which the folder is refused; one is always allowed.
    check: without in_memory, so many files, spread evenly, are decoded now; in a larger folder the rest is
      found out while training.

  Raises:
    FileNotFoundError, ValueError: no such folder, no images, classes that do not fit, too many unreadable
      files.
  """
  if size < 1 or channels not in (1, 3):
    raise ValueError(f"folder: size = {size} and channels = {channels}; size must be positive and channels 1 "
                     "or 3")
  root = Path(path).expanduser()
  if not root.is_dir():
    raise FileNotFoundError(f"the image folder {str(root)!r} "
                            f"{'is not a folder' if root.exists() else 'does not exist'}; set "
                            "config.data.args.path to a folder of images, or of one sub-folder per class")
  names, label, classes, parts = _index(root, split, test_share)
  index = splits.select(split, parts)
  names, label = [names[i] for i in index], label[index]

  shape, title = (size, size, channels), f"folder {root} {split}"

  def reading(names: list[str], label: np.ndarray) -> reader.Reader:
    fetch = lambda i: ((root / names[i]).read_bytes(), int(label[i]))
    return reader.Reader(fetch, lambda i: str(root / names[i]), length=len(names), shape=shape, resize=True,
                         max_bad=max_bad, where=title)

  describe = lambda n: f"folder {root.name}, {split}, {n} images {size}x{size}x{channels}, {classes} classes"
  if in_memory or (in_memory is None and reader.fits(len(names), shape)):
    image, label = reader.materialise(reading(names, label), len(names), shape, title)
    return from_arrays(image, label, classes=classes, describe=describe(len(image)))
  bad = reader.probe(reading(names, label), len(names), check, title)
  names, label = [n for i, n in enumerate(names) if i not in set(bad)], np.delete(label, bad)
  if not names:
    raise ValueError(f"{title}: no image is readable")
  return Source(len(names), classes, shape, reading(names, label), None, describe(len(names)))


def _index(root: Path, split: str,
           test_share: float) -> tuple[list[str], np.ndarray, int, dict[str, np.ndarray]]:
  """All images below the root, relative and sorted, their labels, the number of classes, and which positions
  are which split.
  """
  wanted = {word.split("[")[0].strip() for word in split.split("+")}
  train = root / "train" if (root / "train").is_dir() else None
  test = next((root / name for name in _TEST if (root / name).is_dir()), None)
  if train and test:                                # splits given as folders
    bases = {"train": train, "test": test} | {w: root / w for w in wanted if (root / w).is_dir()}
    names, labels, parts, classes, total = [], [], {}, _classes(train), 0
    for base, where in bases.items():
      found, label = _images(where, classes)
      parts[base], total = np.arange(total, total + len(found)), total + len(found)
      names += [f"{where.name}/{n}" for n in found]
      labels.append(label)
    if len(bases) > 2:              # "val" beside "test" may be the same folder: "all" would count it twice
      parts = {k: v for k, v in parts.items() if k in wanted} or parts
    return names, np.concatenate(labels), len(classes), parts
  base = train or root
  classes = _classes(base)
  names, label = _images(base, classes)
  return [f"train/{n}" if train else n for n in names], label, len(classes), splits.holdout(label, test_share)


def _classes(where: Path) -> list[str]:
  """Names of the sub-folders that hold images, sorted; none for a flat folder."""
  folders = [d for d in where.iterdir() if d.is_dir() and not d.name.startswith(".")]
  return sorted(d.name for d in folders if any(map(_is_image, d.rglob("*"))))


def _images(where: Path, classes: list[str]) -> tuple[list[str], np.ndarray]:
  """Sorted relative paths of the images and their labels, int32 [N]."""
  files = sorted(p.relative_to(where).as_posix() for p in where.rglob("*") if p.is_file())
  files = [f for f in files if not any(part.startswith(".") for part in f.split("/"))]
  names = [f for f in files if Path(f).suffix.lower() in SUFFIXES]
  if other := [f for f in files if Path(f).suffix.lower() not in SUFFIXES]:
    logging.info("%s: ignored %d files without an image suffix: %s", where, len(other), ", ".join(other[:5]))
  if not names:
    raise ValueError(f"no images in {str(where)!r} ({len(files)} other files). Expected images, or one "
                     "sub-folder of images per class, with "
                     f"suffixes {' '.join(sorted(SUFFIXES))}")
  if not classes:
    return names, np.full(len(names), -1, np.int32)
  first = [n.split("/")[0] for n in names]
  if odd := sorted(set(first) - set(classes)):
    raise ValueError(f"{str(where)!r} holds {', '.join(odd[:5])}, in none of the class folders "
                     f"{', '.join(classes[:5])}"
                     f"{', ...' if len(classes) > 5 else ''}. Use one sub-folder per class, the same in "
                     "every split, or no sub-folders")
  rank = {c: i for i, c in enumerate(classes)}
  return names, np.array([rank[c] for c in first], np.int32)


def _is_image(path: Path) -> bool:
  return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
