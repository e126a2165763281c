"""Examples out of encoded images: decoded one by one as they are read, or all at once into arrays.

Shape letters: N examples, H W C image, L length of a caption.
"""
from collections.abc import Callable
import concurrent.futures
import sys

from absl import logging
import numpy as np

from jepa.data import images
from jepa.data.source import THREADS, Example

FITS = 2**30                        # bytes of decoded images up to which a split is kept in memory by default
_NAMED = 5                          # unreadable examples logged by name before only their number is


class Reader:
  """get(i) of encoded images, with a tally of the unreadable ones. Can be sent to a worker process, which
  then keeps its own.
  """

  def __init__(self, fetch: Callable[[int], tuple[bytes, int]], name: Callable[[int], str], *, length: int,
               shape: tuple[int, int, int], resize: bool, max_bad: float, where: str,
               text: np.ndarray | None = None):
    """
    Args:
      fetch: i -> (encoded image, label).
      name: i -> what to call the example in a log line.
      resize: resize and crop to `shape`; otherwise another shape is an error of that example.
      max_bad: share of unreadable examples beyond which the data are refused; one is always allowed.
      where: what to call the data.
      text: captions int32 [N L], where there are some.
    """
    self._fetch, self._name, self._shape, self._resize = fetch, name, shape, resize
    self._length, self._max_bad, self._where, self._text = length, max_bad, where, text
    self.bad: dict[int, str] = {}

  def __call__(self, i: int) -> Example | None:
    try:
      data, label = self._fetch(i)
      image = images.decode(data, size=self._shape[0] if self._resize else None, channels=self._shape[2])
      if image.shape != self._shape:
        raise ValueError(f"shape {image.shape} is not {self._shape}")
    except MemoryError:
      raise
    except Exception as error:      # Pillow's formats raise anything on damaged files
      self._note(i, error)
      return None
    example = {"image": image, "label": np.int32(label), "index": np.int32(i)}
    return example if self._text is None else example | {"text": self._text[i]}

  def _note(self, i: int, error: Exception) -> None:
    if i in self.bad:
      return
    reason = str(error).partition(" <_io")[0]       # Pillow names the buffer, which is not the file
    self.bad[i] = f"{type(error).__name__}: {reason}"
    if len(self.bad) <= _NAMED:
      logging.warning("unreadable: %s (%s)", self._name(i), self.bad[i])
    elif len(self.bad) & (len(self.bad) - 1) == 0:
      logging.warning("%s: %d unreadable examples so far", self._where, len(self.bad))
    self.check(self._length)

  def check(self, of: int) -> None:
    """Refuses data of which more than the stated share is unreadable.

    Raises:
      ValueError: names the first few.
    """
    if len(self.bad) > max(1, int(self._max_bad * of)):
      some = "; ".join(f"{self._name(i)} ({why})" for i, why in list(self.bad.items())[:_NAMED])
      raise ValueError(f"{self._where}: {len(self.bad)} of {of} examples are unreadable, more than max_bad = "
                       f"{self._max_bad:g} allows. First: "
                       f"{some}. Repair or remove them, or raise max_bad")


def fits(length: int, shape: tuple[int, int, int]) -> bool:
  """Whether decoded images stay under the limit for sources kept in memory."""
  return length * int(np.prod(shape)) <= FITS


def materialise(reader: Reader, length: int, shape: tuple[int, int, int],
                title: str) -> tuple[np.ndarray, np.ndarray]:
  """Decodes examples 0 ... length-1 in threads, with a progress bar: uint8 [N H W C] and int32 [N] of the
  readable ones, in order.

  Raises:
    ValueError: too many are unreadable, or all.
  """
  image = np.empty((length, *shape), np.uint8)
  label, good = np.full(length, -1, np.int32), np.zeros(length, bool)

  def fill(i: int) -> None:
    if (example := reader(i)) is not None:
      image[i], label[i], good[i] = example["image"], example["label"], True

  in_threads(fill, range(length), title)
  report(reader, length, title)
  if not good.any():
    raise ValueError(f"{title}: none of the {length} examples is readable")
  return (image, label) if good.all() else (image[good], label[good])


def probe(reader: Reader, length: int, count: int, title: str) -> list[int]:
  """Decodes up to `count` examples spread evenly; returns those that are unreadable.

  Raises:
    ValueError: too many are.
  """
  index = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int)).tolist()
  in_threads(reader, index, f"{title} (check)")
  reader.check(len(index))
  report(reader, len(index), title)
  return sorted(reader.bad)


def report(reader: Reader, of: int, title: str) -> None:
  """Logs how many examples were skipped, if any."""
  if reader.bad:
    logging.warning("%s: skipped %d of %d examples, unreadable", title, len(reader.bad), of)


def in_threads(work: Callable[[int], object], index, title: str, unit: str = "img",
               piece: int = 64) -> None:
  """`work` of every index, `piece` of them a task, with a progress bar; raises what it raises."""
  from tqdm import tqdm
  pieces = [index[k:k + piece] for k in range(0, len(index), piece)]
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
  try:
    with tqdm(total=len(index), desc=title, unit=unit, leave=False, delay=1.0,
              disable=not sys.stderr.isatty()) as bar:
      for piece, _ in zip(pieces, pool.map(lambda piece: [work(i) and None for i in piece], pieces)):
        bar.update(len(piece))
  finally:
    pool.shutdown(cancel_futures=True)
