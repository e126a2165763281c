"""From a source to batches on the device: streams for training, ordered batches for evaluation, device put,
prefetch.

Both training streams yield the rows that `jepa.data.order` says: one gathers whole batches from arrays in
memory, the other decodes with Grain in threads or worker processes. Their only state is the step.

Shape letters: B global batch, b rows of this process, N examples, H W C image, L length of a caption.
"""
import collections
from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import functools
import threading
import time
from typing import Any
import weakref

from absl import flags, logging
import numpy as np

from jepa.data import order as orders
from jepa.data.order import Order
from jepa.data.source import THREADS, Example, Source, keys

# "image" uint8 [B H W C], "label" int32 [B], "index" int32 [B]; of sources with captions "text" int32 [B L];
# of recordings "image" uint8 [B T H W C], "action" f32 [B T-1 A] and "position" f32 [B T P]
Batch = dict[str, np.ndarray]

_ENDLESS = 2**40                    # batches; Grain wants a length
_NAMED = 5                          # replacements logged one by one before only their number is
_PATIENCE = 30.0                    # seconds that close() waits for a batch being prepared


def train(source: Source, *, batch: int, seed: int, workers: int = 0, in_memory: bool | None = None,
          process: int | None = None, processes: int | None = None) -> "InMemory | Decoded":
  """An endless iterator of this process's rows of the global batches; a function of (seed, step, process)
  only.

  It has get_state() and set_state(state) (JSON-able; any number of processes and workers can go on from it),
  `step` and close().

  Args:
    batch: global batch size.
    workers: processes that decode; 0 decodes in threads of this one. Changes nothing but the speed.
    in_memory: gather from `source.arrays`; None: where there are some.
    process, processes: which slice of the global batch is ours; those of jax by default.

  Raises:
    ValueError: the batch does not split, the source is empty, workers < 0, or in_memory without arrays.
  """
  if process is None or processes is None:
    import jax
    process = jax.process_index() if process is None else process
    processes = jax.process_count() if processes is None else processes
  order = orders.make(length=source.length, batch=batch, seed=seed, process=process, processes=processes)
  if workers < 0:
    raise ValueError(f"workers = {workers}: must not be negative (config.data.workers)")
  if in_memory and source.arrays is None:
    raise ValueError(f"in_memory: {source.describe} is not in memory; load it with in_memory=True "
                     "(config.data.args.in_memory)")
  if in_memory or (in_memory is None and source.arrays is not None):
    return InMemory(source, order)
  return Decoded(source, order, workers)


class InMemory:
  """Whole batches gathered from stacked arrays. `step`: batches produced."""

  def __init__(self, source: Source, order: Order):
    self.step, self._order = 0, order
    self._arrays = {k: source.arrays[k] for k in keys(source)}

  def __iter__(self) -> "InMemory":
    return self

  def __next__(self) -> Batch:
    rows = orders.rows(self._order, self.step)
    self.step += 1
    return {k: v.take(rows, axis=0) for k, v in self._arrays.items()}

  def get_state(self) -> dict[str, int]:
    return orders.state(self._order, self.step)

  def set_state(self, state: Mapping[str, int]) -> None:
    self.step = orders.step_of(self._order, state)

  def close(self) -> None:
    """Nothing to release."""


class Decoded:
  """Batches decoded by Grain. `step`: batches produced; `replaced`: unreadable examples met since the start
  of this object.

  An unreadable example is replaced by the next readable one of the source, whose index the batch then shows.
  """

  def __init__(self, source: Source, order: Order, workers: int):
    self.step, self.replaced = 0, 0
    self._source, self._order, self._workers, self._batches = source, order, workers, None

  def __iter__(self) -> "Decoded":
    return self

  def __next__(self) -> Batch:
    if self._batches is None:
      self._batches = self._open()
    batch = next(self._batches)
    self.step += 1
    self._tell(batch["instead_of"], batch["index"])
    return {k: batch[k] for k in keys(self._source)}

  def get_state(self) -> dict[str, int]:
    return orders.state(self._order, self.step)

  def set_state(self, state: Mapping[str, int]) -> None:
    step = orders.step_of(self._order, state)
    self.close()
    self.step = step

  def close(self) -> None:
    """Ends threads and worker processes; the next `next` starts them again."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def _open(self):
    """A Grain iterator from this step on. Grain's own state is not used: it depends on the number of
    workers.
    """
    import grain
    loader = functools.partial(_load, self._source.get, keys(self._source), self._order)
    batches = grain.MapDataset.range(self.step, _ENDLESS).map(loader)
    threads = 1 if self._workers else THREADS
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if self._workers:
      if not flags.FLAGS.is_parsed():       # Grain reads absl flags when it starts workers, whoever runs it
        flags.FLAGS.mark_as_parsed()
      options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
      batches = batches.mp_prefetch(options)
    return iter(batches)

  def _tell(self, instead_of: np.ndarray, index: np.ndarray) -> None:
    for row in np.flatnonzero(instead_of >= 0):
      self.replaced += 1
      if self.replaced <= _NAMED:
        logging.warning("step %d: example %d is unreadable, replaced by %d", self.step, instead_of[row],
                        index[row])
      elif self.replaced & (self.replaced - 1) == 0:
        logging.warning("step %d: %d unreadable examples replaced so far", self.step, self.replaced)


def _load(get: Callable[[int], Example | None], names: tuple[str, ...], order: Order, step: int) -> Batch:
  """The batch of `step`, and in "instead_of" int32 [b] the index that each row should have had, -1 where it
  has it.
  """
  rows = orders.rows(order, step)
  examples = [_readable(get, int(i), order.length) for i in rows]
  batch = _stacked([e for _, e in examples], names)
  instead_of = [i if skipped else -1 for i, (skipped, _) in zip(rows, examples)]
  return batch | {"instead_of": np.array(instead_of, np.int32)}


def _readable(get: Callable[[int], Example | None], i: int, length: int) -> tuple[int, Example]:
  """(number of unreadable examples passed over, the first readable one from i on, going round)."""
  for skipped in range(length):
    if (example := get((i + skipped) % length)) is not None:
      return skipped, example
  raise ValueError(f"none of the {length} examples of the source is readable")


def epoch(source: Source, *, batch: int) -> Iterator[tuple[Batch, int]]:
  """Every readable example once and in order: (batch of exactly `batch` rows, how many of them are valid).

  Padding is label -1, index -1, the rest 0, at the end of the last batch. Unreadable examples are left
  out and their number is logged. Every process sees all of it.

  Raises:
    ValueError: batch < 1.
  """
  if batch < 1:
    raise ValueError(f"an evaluation batch of {batch}: must be positive (config.eval.batch)")
  return _from_arrays(source, batch) if source.arrays is not None else _from_reader(source, batch)


def _from_arrays(source: Source, batch: int) -> Iterator[tuple[Batch, int]]:
  for start in range(0, source.length, batch):
    yield _padded({k: source.arrays[k][start:start + batch] for k in keys(source)}, batch)


def _from_reader(source: Source, batch: int) -> Iterator[tuple[Batch, int]]:
  waiting, bad, names = [], 0, keys(source)
  chunks = [range(start, min(start + batch, source.length)) for start in range(0, source.length, batch)]
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
  try:
    read = lambda chunk: [pool.submit(source.get, i) for i in chunk]
    ahead = read(chunks[0]) if chunks else []
    for k in range(len(chunks)):
      now, ahead = ahead, read(chunks[k + 1]) if k + 1 < len(chunks) else []
      examples = [future.result() for future in now]
      good = [e for e in examples if e is not None]
      bad += len(examples) - len(good)
      waiting += good
      if len(waiting) >= batch:
        yield _padded(_stacked(waiting[:batch], names), batch)
        waiting = waiting[batch:]
    if waiting:
      yield _padded(_stacked(waiting, names), batch)
    if bad:
      logging.warning("%s: left out %d of %d examples, unreadable", source.describe, bad, source.length)
  finally:
    pool.shutdown(cancel_futures=True)


def _stacked(examples: list[Example], names: tuple[str, ...]) -> Batch:
  return {k: np.stack([e[k] for e in examples]) for k in names}


def _padded(rows: Mapping[str, np.ndarray], batch: int) -> tuple[Batch, int]:
  valid = len(rows["label"])
  if valid == batch:
    return dict(rows), valid
  fill = {"label": -1, "index": -1}         # the rest: 0
  padding = {k: np.full((batch - valid, *v.shape[1:]), fill.get(k, 0), v.dtype) for k, v in rows.items()}
  return {k: np.concatenate([v, padding[k]]) for k, v in rows.items()}, valid


def put(batch: Mapping[str, np.ndarray], sharding) -> dict[str, Any]:
  """This process's rows [b ...] of every leaf as its part of a global jax.Array [B ...], B = b * number of
  processes.

  Args:
    sharding: a jax.sharding.Sharding that splits the first axis.
  """
  import jax
  count = jax.process_count()
  return {k: jax.make_array_from_process_local_data(sharding, v, (len(v) * count, *v.shape[1:]))
          for k, v in batch.items()}


def prefetch(iterator: Iterator, put: Callable[[Any], Any], depth: int = 2) -> "Ahead":
  """Takes over `iterator` (which needs get_state and set_state): iterates over put(next(iterator)), prepared
  `depth` items ahead in a thread that starts at once.

  Raises:
    ValueError: depth < 1.
  """
  if depth < 1:
    raise ValueError(f"prefetch depth {depth}: at least one batch has to be prepared ahead "
                     "(config.data.prefetch)")
  return Ahead(iterator, put, depth)


class Ahead:
  """Items prepared ahead. `waited`: seconds that `next` spent waiting for them, in total.

  After t items `get_state()` is the position the iterator had after producing t, however far ahead the thread
  has read, so a checkpoint of step t goes on with item t + 1. An exception in the thread is raised by the
  `next` whose item it was. The thread ends with `close`, with the object, or with the interpreter, whichever
  comes first.
  """

  def __init__(self, iterator: Iterator, put: Callable[[Any], Any], depth: int):
    self.waited = 0.0
    self._iterator, self._put, self._depth = iterator, put, depth
    self._start()

  def __iter__(self) -> "Ahead":
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

  def __enter__(self) -> "Ahead":
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
