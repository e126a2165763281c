"""Batches prepared ahead in a background thread, with the exact position of what was handed out."""
import collections
from collections.abc import Callable, Iterator
import threading
import time
from typing import Any
import weakref

from absl import logging

_PATIENCE = 30.0                    # seconds that close() waits for a batch being prepared


class Prefetch:
  """Iterates over put(next(iterator)), prepared `depth` items ahead.

  After t items `get_state()` is the position the iterator had after producing t, however far ahead the thread
  has read, so a checkpoint of step t goes on with item t + 1. An exception in the thread is raised by the
  `next` whose item it was. The thread ends with `close`, with the object, or with the interpreter, whichever
  comes first.

  Attributes:
    waited: seconds that `next` spent waiting for items, in total.
  """

  def __init__(self, iterator: Iterator, put: Callable[[Any], Any], depth: int = 2):
    """Takes over `iterator` (which needs get_state and set_state) and starts at once.

    Raises:
      ValueError: depth < 1.
    """
    if depth < 1:
      raise ValueError(f"prefetch depth {depth}: at least one batch has to be prepared ahead "
                       "(config.data.prefetch)")
    self.waited = 0.0
    self._iterator, self._put, self._depth = iterator, put, depth
    self._start()

  def __iter__(self) -> "Prefetch":
    return self

  def __next__(self) -> Any:
    lane, start = self._lane, time.monotonic()
    with lane.changed:
      lane.changed.wait_for(lambda: lane.ready or lane.end is not None or lane.stopped)
      self.waited += time.monotonic() - start
      if lane.stopped:
        raise ValueError("this prefetch iterator is closed")
      if not lane.ready:
        raise lane.end
      item, self._position = lane.ready.popleft()
      lane.changed.notify_all()
    return item

  def get_state(self) -> dict[str, Any]:
    """The position after the items handed out so far, JSON-able."""
    return self._position

  def set_state(self, state: dict[str, Any]) -> None:
    """Throws away what was prepared and goes on from `state`."""
    _stop(self._lane, self._thread)
    self._iterator.set_state(state)
    self._start()

  def close(self) -> None:
    """Ends the thread and closes the iterator; may be called again."""
    self._finalizer()
    if hasattr(self._iterator, "close") and not self._thread.is_alive():
      self._iterator.close()

  def __enter__(self) -> "Prefetch":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _start(self) -> None:
    self._position = self._iterator.get_state()
    self._lane = _Lane()
    self._thread = threading.Thread(target=_produce, name="prefetch", daemon=True,
                                    args=(self._lane, self._iterator, self._put, self._depth))
    # Neither the thread nor the finalizer refers to self, so dropping the object ends the thread; at exit the
    # finalizer runs before the interpreter goes, under which a thread inside the runtime would crash.
    self._finalizer = weakref.finalize(self, _stop, self._lane, self._thread)
    self._thread.start()


class _Lane:
  """What the thread and its consumer share."""

  def __init__(self):
    self.changed = threading.Condition()
    self.ready = collections.deque()          # (item, position after it)
    self.end: BaseException | None = None     # raised once `ready` is empty
    self.stopped = False


def _produce(lane: _Lane, iterator: Iterator, put: Callable, depth: int) -> None:
  try:
    while True:
      with lane.changed:
        lane.changed.wait_for(lambda: len(lane.ready) < depth or lane.stopped)
        if lane.stopped:
          return
      entry = put(next(iterator)), iterator.get_state()
      with lane.changed:
        lane.ready.append(entry)
        lane.changed.notify_all()
      del entry                               # the batch would otherwise live here until the next one
  except BaseException as error:              # StopIteration too: what ends the iterator ends its consumer
    with lane.changed:
      lane.end = error
      lane.changed.notify_all()


def _stop(lane: _Lane, thread: threading.Thread) -> None:
  with lane.changed:
    lane.stopped = True
    lane.ready.clear()
    lane.changed.notify_all()
  if thread is not threading.current_thread():
    thread.join(_PATIENCE)
    if thread.is_alive():
      logging.error("the prefetch thread did not stop within %.0f s; left behind", _PATIENCE)
