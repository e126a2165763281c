"""Images with captions, listed in a TSV file: one `image path<TAB>caption[<TAB>class]` a line.

Paths are relative to the file's folder, or absolute. A first line of column names, such as
"filepath<TAB>caption" or "image<TAB>title", is recognised. An image may have several lines; all of them are
in the same split, which is a fixed draw over the sorted paths (`splits.holdout`).
"""
from collections.abc import Sequence
import os
from pathlib import Path

import numpy as np

from jepa import text as texts
from jepa.data import reader, splits
from jepa.data.source import Source, from_arrays

_HEADER = ({"filepath", "file", "path", "image", "url"}, {"caption", "title", "text"})
_NAMED = 5                          # missing files named in an error


def make(split: str, *, path: str, size: int, channels: int = 3, length: int = 64,
         test_share: float = splits.TEST_SHARE, in_memory: bool | None = None, max_bad: float = 0.01,
         check: int = 1024) -> Source:
  """Images of a TSV file, resized (shortest side) and centre-cropped to `size`, with captions int32 [L].

  Labels are the ranks of the names in the third column, -1 on lines without one. Unreadable images are
  counted, logged by name and skipped: those found while opening leave the source, others make `get` return
  None.

  Args:
    split: "train", "test", "all", or slices of them ("train[:10%]").
    path: the TSV file, UTF-8 without quoting.
    length: L, bytes of a caption and two; longer ones are cut (`jepa.text.tokenise`).
    test_share: of the images, held out.
    in_memory: decode everything now; None: if it fits (`reader.FITS`).
    max_bad: share of unreadable images above which the file is refused; one is always allowed.
    check: without in_memory, so many images, spread evenly, are decoded now; in a larger file the rest is
      found out while training.

  Raises:
    FileNotFoundError, ValueError: no such file, images that it names and that are not there, lines that are
      not a path and a caption (by number), no lines, too many unreadable images.
  """
  if size < 1 or channels not in (1, 3):
    raise ValueError(f"captions: size = {size} and channels = {channels}; size must be positive and channels "
                     "1 or 3")
  file = Path(path).expanduser()
  if not file.is_file():
    raise FileNotFoundError(f"the caption file {str(file)!r} "
                            f"{'is not a file' if file.exists() else 'does not exist'}; set "
                            "config.data.args.path to a TSV file of image paths and captions")
  names, said, classes = _read(file)
  _need(file, names)
  known = {c: i for i, c in enumerate(sorted(set(classes) - {""}))}
  label = np.array([known.get(c, -1) for c in classes], np.int32)
  index = splits.select(split, _parts(names, label, test_share))
  names, label = [names[i] for i in index], label[index]
  text = texts.tokenise([said[i] for i in index], length)

  shape, title = (size, size, channels), f"captions {file} {split}"

  def reading(names: Sequence[str], label: np.ndarray, text: np.ndarray) -> reader.Reader:
    fetch = lambda i: ((file.parent / names[i]).read_bytes(), int(label[i]))
    return reader.Reader(fetch, lambda i: str(file.parent / names[i]), length=len(names), shape=shape,
                         resize=True, max_bad=max_bad, where=title, text=text)

  describe = lambda n: (f"captions {file.name}, {split}, {n} images {size}x{size}x{channels} with captions "
                        f"of {length} bytes, {len(known)} classes")
  read = reading(names, label, text)
  if in_memory or (in_memory is None and reader.fits(len(names), shape)):
    image, label = reader.materialise(read, len(names), shape, title)
    return from_arrays(image, label, classes=len(known), describe=describe(len(image)),
                       text=np.delete(text, sorted(read.bad), axis=0))
  bad = reader.probe(read, len(names), check, title)
  names = [n for i, n in enumerate(names) if i not in set(bad)]
  if not names:
    raise ValueError(f"{title}: no image is readable")
  read = reading(names, np.delete(label, bad), np.delete(text, bad, axis=0))
  return Source(len(names), len(known), shape, read, None, describe(len(names)), length)


def _read(file: Path) -> tuple[list[str], list[str], list[str]]:
  """Paths, captions, and class names ("" for none) of the lines."""
  try:
    lines = file.read_text(encoding="utf-8-sig").split("\n")      # not splitlines: captions may hold U+2028
  except UnicodeDecodeError as error:
    raise ValueError(f"{str(file)!r} is not UTF-8 (byte {error.start}); convert it, say with "
                     "iconv") from error
  names, said, classes = [], [], []
  for number, line in enumerate(lines, 1):
    cells = line.split("\t")
    if not line.strip() or (number == 1 and _is_header(cells)):
      continue
    if not 2 <= len(cells) <= 3 or not cells[0].strip():
      raise ValueError(f"{str(file)!r}, line {number}: {len(cells)} columns, {line[:60]!r}; expected an "
                       "image path, a tab, a caption and, optionally, a tab and a class")
    names.append(os.path.normpath(cells[0].strip()))
    said.append(cells[1].strip())
    classes.append(cells[2].strip() if len(cells) == 3 else "")
  if not names:
    raise ValueError(f"{str(file)!r} holds no captions; expected lines of an image path, a tab and a caption")
  return names, said, classes


def _is_header(cells: list[str]) -> bool:
  return len(cells) >= 2 and all(c.strip().lower() in known for c, known in zip(cells, _HEADER))


def _need(file: Path, names: Sequence[str]) -> None:
  """Refuses paths without a file: they are a wrong folder far more often than a lost image."""
  unique = sorted(set(names))
  if missing := [n for n in unique if not (file.parent / n).is_file()]:
    raise FileNotFoundError(f"{str(file)!r}: {len(missing)} of {len(unique)} images do not exist, first "
                            f"{', '.join(missing[:_NAMED])}. Paths are relative to {str(file.parent)!r} or "
                            "absolute; correct them, or leave these lines out")


def _parts(names: Sequence[str], label: np.ndarray, share: float) -> dict[str, np.ndarray]:
  """Which lines are train and test. Images are drawn, not lines, or a test image could be in train with
  another caption.
  """
  _, first, image = np.unique(names, return_index=True, return_inverse=True)
  parts = splits.holdout(label[first], share)
  return {part: np.flatnonzero(np.isin(image, drawn)) for part, drawn in parts.items()}
