"""Sources and pipelines: what is in a split, what is in a batch, and where the next one starts."""
import inspect
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

from absl import logging
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from PIL import Image
import pytest

from jepa import config, text
from jepa.data import order, pipeline, source as sources, splits

ROOT = pathlib.Path(__file__).parents[1]
TFDS = pathlib.Path(os.environ.get("JEPA_DATA_DIR") or ROOT.parent / "shared" / "data" / "tfds")
needs_tfds = pytest.mark.skipif(not (TFDS / "cifar10").is_dir(),
                                reason=f"no cifar10 in {TFDS}; JEPA_DATA_DIR can name another folder")


def take(iterator, n):
  return list(itertools.islice(iterator, n))


def indices(batches):
  return [b["index"].tolist() for b in batches]


def same(a, b):
  equal = lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype
  pairs = list(zip(a, b, strict=True))
  return all(x.keys() == y.keys() and all(equal(x[k], y[k]) for k in x) for x, y in pairs)


def stream(source, batch=16, seed=0, process=0, processes=1, **kwargs):
  return pipeline.train(source, batch=batch, seed=seed, process=process, processes=processes, **kwargs)


@pytest.fixture(scope="module")
def small():
  return sources.make("synthetic", "train", n=50, size=8)


@pytest.fixture
def warned(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
  return lines


def encoded(value, kind="PNG", size=(12, 10), mode="RGB"):
  out = io.BytesIO()
  Image.new(mode, size, value).save(out, kind)
  return out.getvalue()


@pytest.fixture
def pictures(tmp_path):
  """Two classes of 20, three files of 40 broken in three ways, and files that are no images."""
  for name, level in (("cat", 50), ("dog", 200)):
    (tmp_path / name).mkdir()
    for i in range(20):
      kind = ("png", "jpeg", "webp", "bmp")[i % 4]
      (tmp_path / name / f"{i:02}.{kind}").write_bytes(encoded((level,) * 3, kind.upper()))
  (tmp_path / "cat" / "01.jpeg").write_bytes(encoded((50,) * 3, "JPEG", (64, 64))[:-300])
  (tmp_path / "cat" / "04.png").write_text("this is text")
  (tmp_path / "dog" / "08.png").write_bytes(b"")
  (tmp_path / "labels.csv").write_text("a,b")
  (tmp_path / "dog" / ".hidden.png").write_bytes(b"")
  return tmp_path


# ---- order


def test_every_epoch_is_a_new_permutation_and_nothing_is_dropped(small):
  flat = np.concatenate([b["index"] for b in take(stream(small), 25)])    # 400 rows: 8 epochs
  epochs = flat.reshape(8, 50)
  assert (np.sort(epochs, 1) == np.arange(50)).all()
  assert len({tuple(e) for e in epochs}) == 8


def test_stream_depends_on_the_seed_only(small):
  a, b, c = (take(stream(small, seed=s), 6) for s in (3, 3, 4))
  assert same(a, b) and indices(a) != indices(c)
  assert a[0]["image"].dtype == np.uint8 and a[0]["label"].dtype == a[0]["index"].dtype == np.int32
  assert np.array_equal(a[0]["image"], small.arrays["image"][a[0]["index"]])


def test_order_is_what_it_always_was():
  """Changing these numbers breaks the resume of every checkpoint in the world."""
  assert order.permutation(10, 0, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
  assert order.permutation(10, 1, 2).tolist() == [5, 6, 9, 3, 2, 1, 0, 8, 4, 7]


def test_a_batch_may_be_larger_than_the_source(small):
  batch = next(stream(small, batch=128))
  counts = np.bincount(batch["index"], minlength=50)
  assert counts.sum() == 128 and counts.min() >= 2 and counts.max() <= 3


@pytest.mark.parametrize("in_memory", (True, False))
def test_the_global_batch_does_not_depend_on_the_number_of_processes(small, in_memory):
  whole = take(stream(small), 5)
  for count in (2, 4):
    parts = [take(stream(small, process=p, processes=count, in_memory=in_memory), 5) for p in range(count)]
    joined = [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts)]
    assert same(whole, joined)


def test_grain_path_equals_fast_path(small):
  reader = stream(small, in_memory=False)
  assert isinstance(reader, pipeline.Decoded) and isinstance(stream(small), pipeline.InMemory)
  assert same(take(stream(small), 8), take(reader, 8))
  reader.close()


def test_worker_processes_change_nothing(small):
  reader = stream(small, in_memory=False, workers=2)
  reader.set_state(order.state(order.make(length=50, batch=16, seed=0), 3))
  assert same(take(stream(small), 8)[3:], take(reader, 5))
  reader.close()


@pytest.mark.parametrize("kwargs, text", (
    ({"processes": 3, "batch": 16}, "multiple of 3"), ({"seed": -1}, "negative"),
    ({"workers": -1}, "workers"), ({"process": 2, "processes": 2}, "process 2")))
def test_bad_streams_are_refused(small, kwargs, text):
  with pytest.raises(ValueError, match=text):
    stream(small, **kwargs)
  with pytest.raises(ValueError, match="not in memory"):
    stream(small._replace(arrays=None), in_memory=True)


# ---- position


@pytest.mark.parametrize("in_memory", (True, False))
def test_resume_continues_exactly_under_another_process_count(small, in_memory):
  full = take(stream(small), 9)
  first = stream(small, process=1, processes=2, in_memory=in_memory)
  take(first, 4)
  saved = json.loads(json.dumps(first.get_state()))
  again = stream(small, in_memory=not in_memory)
  next(again)
  again.set_state(saved)
  assert same(full[4:], take(again, 5)) and again.get_state()["step"] == 9
  for it in (first, again):
    it.close()


def test_a_position_of_another_stream_is_refused(small):
  saved = stream(small).get_state()
  for change in ({"seed": 7}, {"batch": 32}, {"length": 51}):
    with pytest.raises(ValueError, match=f"{next(iter(change))} {next(iter(change.values()))}"):
      stream(small).set_state(saved | change)
  with pytest.raises(ValueError, match="missing"):
    stream(small).set_state({"step": 3})


@pytest.mark.parametrize("in_memory", (True, False))
def test_prefetch_position_counts_what_was_consumed(small, in_memory):
  full = take(stream(small), 10)
  with pipeline.prefetch(stream(small, in_memory=in_memory), dict, depth=3) as ahead:
    assert ahead.get_state()["step"] == 0
    assert same(full[:4], take(ahead, 4))
    time.sleep(0.1)                           # let it run ahead
    saved = json.loads(json.dumps(ahead.get_state()))
    assert saved["step"] == 4
    assert same(full[4:6], take(ahead, 2))
    ahead.set_state(saved)
    assert same(full[4:7], take(ahead, 3))
  with pipeline.prefetch(stream(small), dict) as resumed:
    resumed.set_state(saved)
    assert same(full[4:8], take(resumed, 4))


# ---- prefetch


class Numbers:
  """An iterator with a position that fails at `fail`."""

  def __init__(self, fail=None, end=10**9, pause=0.0):
    self.i, self.fail, self.end, self.pause, self.closed = 0, fail, end, pause, False

  def __iter__(self):
    return self

  def __next__(self):
    time.sleep(self.pause)
    if self.i == self.fail:
      raise KeyError("broken")
    if self.i == self.end:
      raise StopIteration
    self.i += 1
    return self.i

  def get_state(self):
    return {"i": self.i}

  def set_state(self, state):
    self.i = state["i"]

  def close(self):
    self.closed = True


def prefetching():
  return [t for t in threading.enumerate() if t.name == "prefetch"]


def test_prefetch_raises_what_the_thread_met_in_its_turn():
  numbers = Numbers(fail=3)
  ahead = pipeline.prefetch(numbers, lambda x: x, depth=2)
  assert take(ahead, 3) == [1, 2, 3]
  for _ in range(2):
    with pytest.raises(KeyError, match="broken"):
      next(ahead)
  ahead.close()
  ahead.close()
  assert numbers.closed and not prefetching()
  with pytest.raises(ValueError, match="closed"):
    next(ahead)
  with pytest.raises(ValueError, match="depth"):
    pipeline.prefetch(numbers, lambda x: x, depth=0)


def test_prefetch_raises_what_put_raises():
  def put(x):
    raise OSError("no device")
  with pipeline.prefetch(Numbers(), put) as ahead, pytest.raises(OSError, match="no device"):
    next(ahead)


def test_prefetch_ends_with_the_iterator_and_counts_waiting():
  with pipeline.prefetch(Numbers(end=3, pause=0.05), lambda x: x) as ahead:
    assert list(ahead) == [1, 2, 3] and 0.05 < ahead.waited < 5


def test_prefetch_stops_with_the_object():
  ahead = pipeline.prefetch(Numbers(), lambda x: x)
  next(ahead)
  assert prefetching()
  del ahead
  assert not prefetching()


def test_prefetch_runs_only_so_far_ahead():
  numbers = Numbers()
  with pipeline.prefetch(numbers, lambda x: x, depth=3):
    time.sleep(0.2)
    assert numbers.i == 3


def test_interpreter_exits_with_prefetch_running_and_sources_need_neither_jax_nor_tensorflow():
  code = """
import sys
from jepa.data import pipeline, source as sources
s = sources.make("mnist5k", "train[:5%]")
assert not {"jax", "tensorflow", "tensorflow_datasets", "sklearn", "grain"} & set(sys.modules)
ahead = pipeline.prefetch(pipeline.train(s, batch=8, seed=0, process=0, processes=1), dict)
next(ahead)
raise SystemExit(3)
"""
  done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True,
                        timeout=60)
  assert (done.returncode, done.stderr) == (3, "")


def test_put_makes_global_arrays(small):
  mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  batch = next(stream(small))
  on_device = pipeline.put(batch, sharding)
  for k, v in on_device.items():
    assert v.sharding == sharding and v.dtype == batch[k].dtype and np.array_equal(v, batch[k])


# ---- evaluation


@pytest.mark.parametrize("keep", (True, False))
def test_epoch_is_ordered_and_padded(small, keep):
  source = small if keep else small._replace(arrays=None)
  batches = list(pipeline.epoch(source, batch=16))
  assert [n for _, n in batches] == [16, 16, 16, 2]
  assert all(b["image"].shape == (16, 8, 8, 3) for b, _ in batches)
  assert np.concatenate([b["index"][:n] for b, n in batches]).tolist() == list(range(50))
  last = batches[-1][0]
  assert (last["label"][2:] == -1).all() and (last["index"][2:] == -1).all() and not last["image"][2:].any()


def test_epoch_leaves_out_unreadable_examples(small, warned):
  holey = small._replace(arrays=None, get=lambda i: None if i in (3, 17) else small.get(i))
  batches = list(pipeline.epoch(holey, batch=16))
  assert [n for _, n in batches] == [16, 16, 16]
  seen = np.concatenate([b["index"] for b, _ in batches]).tolist()
  assert seen == [i for i in range(50) if i not in (3, 17)]
  assert any("left out 2 of 50" in line for line in warned)


# ---- unreadable examples in training


def test_unreadable_examples_are_replaced_by_the_next_readable(small, warned):
  bad = {7, 8, 49}
  holey = small._replace(arrays=None, get=lambda i: None if i in bad else small.get(i))
  reader = stream(holey, batch=10)
  got, expected = indices(take(reader, 5)), indices(take(stream(small, batch=10), 5))
  instead = {7: 9, 8: 9, 49: 0}
  assert got == [[instead.get(i, i) for i in row] for row in expected]
  assert reader.replaced == 3 and len(warned) == 3
  assert any("example 49 is unreadable, replaced by 0" in line for line in warned)
  reader.close()
  dead = stream(small._replace(arrays=None, get=lambda i: None))
  with pytest.raises(ValueError, match="none of the 50"):
    next(dead)
  dead.close()


# ---- splits


def test_splits():
  parts = splits.holdout(np.repeat(np.arange(4), 25))
  sizes = {"train": 80, "test": 20, "all": 100, "train[:10%]": 8, "train[-10:]": 10, "train[5:15]": 10,
           "train+test": 100}
  assert {s: len(splits.select(s, parts)) for s in sizes} == sizes
  a, b = splits.select("train[:30%]", parts), splits.select("train[30%:]", parts)
  assert sorted([*a, *b]) == parts["train"].tolist()
  tail, head = splits.select("train[-25%:]", parts), splits.select("train[:-25%]", parts)
  assert len(tail) == 20 and sorted([*tail, *head]) == parts["train"].tolist()
  for bad in ("trian", "train[", "train[a:b]", "", "train+train", "train[3:3]"):
    with pytest.raises(ValueError, match="split"):
      splits.select(bad, parts)


def test_mnist5k_is_stratified_and_disjoint():
  train, test, whole = (sources.make("mnist5k", s) for s in ("train", "test", "all"))
  assert (train.length, test.length, train.shape, train.classes) == (4000, 1000, (28, 28, 1), 10)
  assert [np.bincount(s.arrays["label"]).tolist() for s in (train, test)] == [[400] * 10, [100] * 10]
  rows = lambda s: {im.tobytes() for im in s.arrays["image"]}
  assert not rows(train) & rows(test) and rows(train) | rows(test) == rows(whole)
  assert test.arrays["image"].max() == 255 and "mnist5k" in train.describe and "4000" in train.describe
  example = test.get(5)
  assert example["image"].dtype == np.uint8 and example["label"].dtype == np.int32 and example["index"] == 5
  mask, ink = test.arrays["mask"], test.arrays["image"][..., 0] > 127
  assert mask.dtype == np.uint8
  assert np.array_equal(mask, np.where(ink, 1 + test.arrays["label"][:, None, None], 0))


def test_digits_and_synthetic():
  train, test = (sources.make("digits", s) for s in ("train", "test"))
  assert train.length + test.length == 1797 and train.shape == (8, 8, 1)
  assert train.arrays["image"].max() == 255
  make = lambda split: sources.make("synthetic", split, n=200, size=8, channels=1, classes=3)
  train, test = make("train"), make("test")
  assert (train.length, test.length, train.shape, train.classes) == (200, 50, (8, 8, 1), 3)
  assert np.array_equal(train.arrays["image"], make("train").arrays["image"])
  means = np.stack([train.arrays["image"][train.arrays["label"] == c].mean(0) for c in range(3)])
  guess = ((test.arrays["image"][:, None] - means[None]) ** 2).sum((2, 3, 4)).argmin(1)
  assert (guess == test.arrays["label"]).mean() > 0.9


@pytest.mark.parametrize("name, args, text", (
    ("minst5k", {}, "did you mean 'mnist5k'.*Known: .*captions, digits"),
    ("folder", {"pth": 1}, "args.pth is not an option; did you mean 'path'.*Options: path, size"),
    ("folder", {"path": "x"}, "config.data.args.size is missing: jepa.data.sources.folder.make needs it"),
    ("mnist5k", {"size": 3}, "args.size is not an option"),
    ("no_such.package", {}, "there is no no_such.package. Known: ")))
def test_a_typo_is_told(name, args, text):
  with pytest.raises(ValueError, match=text):
    sources.make(name, "train", **args)


@pytest.mark.parametrize("name", config.names("jepa.data.sources"))
def test_every_source_opens_or_says_what_it_needs(name):
  """And its batches are what it said they are."""
  _, *options = inspect.signature(config.module(name, "jepa.data.sources").make).parameters.values()
  assert all(p.kind is p.KEYWORD_ONLY for p in options), "a split, and keywords"
  if needed := [p.name for p in options if p.default is p.empty]:
    with pytest.raises(ValueError, match=f"config.data.args.{needed[0]} is missing"):
      sources.make(name, "train")
    return
  train, test = (sources.make(name, split) for split in ("train", "test"))
  assert train.length and test.length and train.describe != test.describe
  assert (train.shape, train.classes, train.text) == (test.shape, test.classes, test.text)
  batch = next(stream(train, batch=4))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == sources.spec(train, 4)
  with pytest.raises(ValueError, match="unknown split"):
    sources.make(name, "no_such_split")


def test_a_source_of_another_repository(tmp_path, monkeypatch):
  (tmp_path / "other_repository").mkdir()
  (tmp_path / "other_repository" / "grey.py").write_text("""
import numpy as np
from jepa.data import splits

def shade(*, level, light=0):
  return level + light

def make(split, *, name, level=7, shading={}):
  image = np.full((40, 4, 4, 1), shade(level=level, **shading), np.uint8)
  return splits.source_of(name, split, image, np.arange(40) % 2)
""")
  monkeypatch.syspath_prepend(tmp_path)
  source = sources.make("other_repository.grey", "test", name="grey", level=9)
  assert (source.length, source.classes, source.shape, source.describe[:4]) == (8, 2, (4, 4, 1), "grey")
  assert (source.arrays["image"] == 9).all() and next(stream(source, batch=4))["image"].shape == (4, 4, 4, 1)
  with pytest.raises(ValueError, match="args.levle is not an option; did you mean 'level'"):
    sources.make("other_repository.grey", "test", name="grey", levle=9)
  with pytest.raises(ValueError, match="args: shade has no option 'ligth'; did you mean 'light'"):
    sources.make("other_repository.grey", "test", name="grey", shading=dict(ligth=1))
  with pytest.raises(ValueError, match="args.name is missing: other_repository.grey.make needs it"):
    sources.make("other_repository.grey", "test")


def test_a_source_is_a_file_and_is_imported_when_it_is_asked_for():
  code = """
import sys
held = lambda: sorted(m for m in sys.modules if m.startswith("jepa.") and m not in before)
before = set()
from jepa.data import pipeline
assert held() == ["jepa.config", "jepa.data", "jepa.data.order", "jepa.data.pipeline", "jepa.data.source"], held()
before |= set(sys.modules)
from jepa import config
from jepa.data import source as sources
names = config.names("jepa.data.sources")
assert {"mnist5k", "world", "trajectories"} < set(names) and held() == ["jepa.data.sources"], held()
before |= set(held())
sources.make("synthetic", "train")
assert held() == ["jepa.data.sources.synthetic", "jepa.data.splits"], held()
print(*names)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr
  files = sorted(path.stem for path in (ROOT / "jepa" / "data" / "sources").glob("[!_]*.py"))
  assert done.stdout.split() == files


# ---- folders


def test_folder_skips_broken_files_and_names_them(pictures, warned):
  source = sources.make("folder", "all", path=str(pictures), size=8, max_bad=0.1)
  assert (source.length, source.classes, source.shape) == (37, 2, (8, 8, 3))
  assert np.bincount(source.arrays["label"]).tolist() == [18, 19]
  level = np.where(source.arrays["label"] == 0, 50, 200)[:, None, None, None]
  assert abs(source.arrays["image"].astype(int) - level).max() <= 3
  assert all(any(name in line for line in warned) for name in ("01.jpeg", "04.png", "08.png"))
  assert any("skipped 3 of 40" in line for line in warned)


def test_folder_on_disk_equals_folder_in_memory(pictures, warned):
  load = lambda **kwargs: sources.make("folder", "all", path=str(pictures), size=8, max_bad=0.1, **kwargs)
  disk, ram = load(in_memory=False), load(in_memory=True)
  assert disk.arrays is None and disk.length == ram.length
  reader = stream(disk, batch=8)
  assert same(take(reader, 6), take(stream(ram, batch=8), 6))
  reader.close()
  unchecked = load(in_memory=False, check=1)            # the rest is found out while reading
  assert unchecked.length == 40 and sum(unchecked.get(i) is None for i in range(40)) == 3


def test_folder_refuses_too_many_broken_files(pictures, warned):
  with pytest.raises(ValueError, match=r"unreadable, more than max_bad = 0.01.*(01.jpeg|04.png|08.png)"):
    sources.make("folder", "all", path=str(pictures), size=8)
  (pictures / "cat" / "01.jpeg").unlink()
  (pictures / "cat" / "04.png").unlink()
  assert sources.make("folder", "all", path=str(pictures), size=8).length == 37       # one is always allowed
  lazy = sources.make("folder", "all", path=str(pictures), size=8, in_memory=False)
  for i in range(3):
    (pictures / "dog" / f"{i:02}.{('png', 'jpeg', 'webp')[i]}").write_bytes(b"gone")
  with pytest.raises(ValueError, match="more than max_bad"):
    [lazy.get(i) for i in range(lazy.length)]


def test_folder_splits(tmp_path, pictures):
  load = lambda split, path=pictures: sources.make("folder", split, path=str(path), size=8)
  for broken in ("cat/01.jpeg", "cat/04.png", "dog/08.png"):
    (pictures / broken).write_bytes(encoded((0, 0, 0)))
  assert [np.bincount(load(s).arrays["label"]).tolist() for s in ("train", "test")] == [[16, 16], [4, 4]]
  root = tmp_path / "named"
  for split, n in (("train", 3), ("val", 2)):
    for c in ("a", "b"):
      (root / split / c).mkdir(parents=True)
      for i in range(n):
        (root / split / c / f"{i}.png").write_bytes(encoded((i, 0, 0)))
  assert [load(s, root).length for s in ("train", "test", "val", "all", "train+test")] == [6, 4, 4, 10, 10]
  (root / "val" / "z").mkdir()
  (root / "val" / "z" / "0.png").write_bytes(encoded((0, 0, 0)))
  with pytest.raises(ValueError, match="holds z"):
    load("test", root)


def test_flat_folder_is_unlabelled(tmp_path):
  for i in range(10):
    (tmp_path / f"{i}.png").write_bytes(encoded((i,) * 3))
  source = sources.make("folder", "train", path=str(tmp_path), size=4, channels=1)
  assert (source.length, source.classes, source.shape) == (8, 0, (4, 4, 1))
  assert (source.arrays["label"] == -1).all()
  (tmp_path / "cat").mkdir()
  (tmp_path / "cat" / "0.png").write_bytes(encoded((0, 0, 0)))
  with pytest.raises(ValueError, match="in none of the class folders"):
    sources.make("folder", "train", path=str(tmp_path), size=4)


def test_folder_that_is_missing_or_empty(tmp_path):
  with pytest.raises(FileNotFoundError, match="does not exist; set config.data.args.path"):
    sources.make("folder", "train", path=str(tmp_path / "no"), size=8)
  with pytest.raises(ValueError, match="no images in"):
    sources.make("folder", "train", path=str(tmp_path), size=8)


def test_decode():
  from jepa.data import images
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 10:20] = 255                                              # the centre square is white
  out = io.BytesIO()
  Image.fromarray(wide).save(out, "PNG")
  assert (images.decode(out.getvalue(), size=10, channels=3) == 255).all()
  assert np.array_equal(images.decode(out.getvalue(), size=None, channels=3), wide)
  assert images.decode(encoded((90, 90, 90), "JPEG", (301, 400)), size=32, channels=3).shape == (32, 32, 3)
  assert (images.decode(encoded((0, 0, 0, 0), mode="RGBA"), size=4, channels=3) == 255).all()
  assert (images.decode(encoded(200 << 8, mode="I;16"), size=4, channels=1) == 200).all()
  assert images.decode(encoded(7, mode="L"), size=4, channels=3).shape == (4, 4, 3)


# ---- masks and captions


@pytest.fixture(scope="module")
def rich(small):
  """As `small`, with a mask and captions."""
  arrays = small.arrays
  said = text.tokenise([f"number {i}" for i in range(50)], 12)
  return sources.from_arrays(arrays["image"], arrays["label"], classes=4, describe="rich", text=said,
                            mask=arrays["image"][..., 0])


@pytest.mark.parametrize("in_memory", (True, False))
def test_captions_are_in_batches_and_masks_are_not(small, rich, in_memory):
  assert (small.text, rich.text) == (0, 12)
  assert set(rich.get(3)) == {"image", "label", "index", "text", "mask"}
  reader = stream(rich, in_memory=in_memory)
  batches = take(reader, 6)
  reader.close()
  assert all(set(b) == {"image", "label", "index", "text"} for b in batches)
  assert all(b["text"].dtype == np.int32 and np.array_equal(b["text"], rich.arrays["text"][b["index"]])
             for b in batches)
  source = rich if in_memory else rich._replace(arrays=None)
  ordered = list(pipeline.epoch(source, batch=16))
  assert np.array_equal(np.concatenate([b["text"][:n] for b, n in ordered]), rich.arrays["text"])
  assert set(ordered[0][0]) == set(batches[0]) and not ordered[-1][0]["text"][2:].any()
  assert indices(batches) == indices(take(stream(small), 6))


def test_tokenise():
  tokens = text.tokenise(["ab", "", "aé", "ñandú", "日本語", "\ud800"], 7)
  assert tokens.dtype == np.int32 and tokens.shape == (6, 7) and tokens.max() < text.VOCABULARY == 259
  assert tokens[0].tolist() == [1, ord("a") + 3, ord("b") + 3, 2, 0, 0, 0]
  assert tokens[1].tolist() == [1, 2, 0, 0, 0, 0, 0]
  # cut after a whole character: "ñandú" has 7 bytes, each of "日本語" 3
  assert text.detokenise(tokens) == ["ab", "", "aé", "ñand", "日", "?"]
  assert all((row == 2).sum() == 1 for row in tokens)
  with pytest.raises(ValueError, match="at least 3"):
    text.tokenise(["a"], 2)


@pytest.fixture
def captioned(tmp_path):
  """Ten images in a folder, the first with two captions, and a TSV file beside it."""
  (tmp_path / "images").mkdir()
  for i in range(10):
    (tmp_path / "images" / f"{i}.png").write_bytes(encoded((20 * i,) * 3))
  said = ["a grey square", "ein graues Quadrat \u2028 größer", "灰色の正方形"]
  said += [f"level {i}" for i in range(3, 10)]
  lines = [f"images/{i}.png\t{s}" for i, s in enumerate(said)] + ["./images/0.png\tagain the first"]
  path = tmp_path / "all.tsv"
  path.write_text("\n".join(["filepath\tcaption", *lines, ""]), encoding="utf-8")
  return path


def test_captions(captioned):
  load = lambda split="all", **kwargs: sources.make("captions", split, path=str(captioned), size=8, **kwargs)
  source = load()
  assert (source.length, source.classes, source.shape, source.text) == (11, 0, (8, 8, 3), 64)
  assert (source.arrays["label"] == -1).all() and source.arrays["text"].dtype == np.int32
  assert source.arrays["image"][:, 0, 0, 0].tolist() == [*range(0, 200, 20), 0]
  said = text.detokenise(source.arrays["text"])
  assert said[1:4] == ["ein graues Quadrat \u2028 größer", "灰色の正方形", "level 3"]
  assert said[10] == "again the first"
  assert all(word in source.describe for word in ("captions all.tsv", "11 images 8x8x3", "64 bytes"))
  assert text.detokenise(load(length=8).arrays["text"])[:3] == ["a grey", "ein gr", "灰色"]
  # An image is in train or in test, with all of its captions.
  train, test = load("train"), load("test")
  levels = [set(s.arrays["image"][:, 0, 0, 0].tolist()) for s in (train, test)]
  assert train.length + test.length == 11 and len(levels[1]) == 2 and not levels[0] & levels[1]
  disk = load(in_memory=False, channels=1)
  assert disk.arrays is None and disk.text == 64
  reader = stream(disk, batch=4)
  assert same(take(reader, 4), take(stream(load(channels=1), batch=4), 4))
  reader.close()


def test_captions_with_classes_and_a_broken_image(captioned, warned):
  lines = captioned.read_text(encoding="utf-8").split("\n")[1:]
  lines = [f"{line}\t{'cat' if i % 2 else 'ant'}" if i < 8 else line for i, line in enumerate(lines)]
  captioned.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
  (captioned.parent / "images" / "4.png").write_bytes(b"no image")
  for in_memory in (True, False):
    source = sources.make("captions", "all", path=str(captioned), size=8, in_memory=in_memory)
    assert (source.length, source.classes) == (10, 2) and any("4.png" in line for line in warned)
    examples = [source.get(i) for i in range(10)]
    assert [int(e["label"]) for e in examples] == [0, 1, 0, 1, 1, 0, 1, -1, -1, -1]
    assert text.detokenise(np.stack([e["text"] for e in examples]))[3:5] == ["level 3", "level 5"]
  (captioned.parent / "images" / "5.png").write_bytes(b"")
  with pytest.raises(ValueError, match="more than max_bad.*4.png"):
    sources.make("captions", "all", path=str(captioned), size=8)


def test_captions_that_do_not_fit(tmp_path, captioned):
  load = lambda name="x.tsv", **kwargs: sources.make("captions", "all", path=str(tmp_path / name), size=8,
                                                     **kwargs)
  with pytest.raises(FileNotFoundError, match="does not exist; set config.data.args.path"):
    load()
  write = lambda content: (tmp_path / "x.tsv").write_bytes(content)
  for content, match in ((b"", "holds no captions"), (b"image\ttitle\n\n", "holds no captions"),
                         (b"images/0.png\ta\nimages/1.png a\n", "line 2: 1 columns"),
                         (b"images/0.png\ta\tb\tc", "line 1: 4 columns"),
                         (b"images/0.png\t\xff", "not UTF-8")):
    write(content)
    with pytest.raises(ValueError, match=match):
      load()
  write(b"images/0.png\ta\nimages/11.png\tb\nno.png\tc\nno.png\td")
  with pytest.raises(FileNotFoundError, match="2 of 3 images do not exist, first images/11.png, no.png"):
    load()
  with pytest.raises(ValueError, match="channels = 2"):
    load("all.tsv", channels=2)


def test_a_run_on_captions_has_them_in_its_batch(captioned):
  from jepa import experiment
  from tests import runs
  c = runs.config("quickstart", batch=8)
  c.data = dict(source="captions", args=dict(path=str(captioned), size=16, length=20), train="all",
                test="test", workers=0, prefetch=2)
  exp = experiment.build(c)
  assert (exp.batch["text"].shape, exp.batch["text"].dtype) == ((8, 20), np.int32)
  made = runs.batches(exp, 1)[0]
  assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in exp.batch.items()}


# ---- arrays


def test_arrays(tmp_path):
  rng = np.random.default_rng(0)
  image, label = rng.integers(0, 256, (50, 6, 6, 3), dtype=np.uint8), np.arange(50) % 5
  np.savez(tmp_path / "a.npz", image=image, label=label)
  np.savez(tmp_path / "b.npz", x_train=image[:40], y_train=label[:40], x_test=image[40:], y_test=label[40:])
  np.save(tmp_path / "c.npy", (image[..., 0] / 255).astype(np.float32))
  np.save(tmp_path / "d.npy", label)
  load = lambda split, file, **kwargs: sources.make("npz", split, path=str(tmp_path / file), **kwargs)
  train, test = load("train", "a.npz"), load("test", "a.npz")
  assert (train.length, test.length, train.classes) == (40, 10, 5)
  assert np.bincount(test.arrays["label"]).tolist() == [2] * 5
  assert np.array_equal(load("test", "b.npz").arrays["image"], image[40:])
  grey = load("all", "c.npy")
  assert grey.classes == 0 and np.array_equal(grey.arrays["image"], image[..., :1])   # floats are exact
  assert np.array_equal(load("all", "c.npy", labels=str(tmp_path / "d.npy")).arrays["label"], label)


@pytest.mark.parametrize("arrays, text", (
    ({"image": np.full((4, 6, 6), 2.0)}, r"floats must lie in \[0, 1\]"),
    ({"image": np.full((4, 6, 6), np.nan)}, "floats must lie"),
    ({"image": np.full((4, 6, 6), 300)}, r"integers in 0\.\.255"),
    ({"image": np.zeros((4, 3, 6, 6), np.uint8)}, "channels last"),
    ({"image": np.zeros((0, 6, 6), np.uint8)}, "N > 0"), ({"data": np.zeros(3)}, "expected image"),
    ({"image": np.zeros((4, 6, 6), np.uint8), "label": np.zeros(3, int)}, "expected 4 integers"),
    ({"image": np.zeros((4, 6, 6), np.uint8), "label": np.full(4, -2)}, "expected 4 integers")))
def test_arrays_that_do_not_fit(tmp_path, arrays, text):
  np.savez(tmp_path / "x.npz", **arrays)
  with pytest.raises(ValueError, match=text):
    sources.make("arrays", "train", path=str(tmp_path / "x.npz"))


def test_nothing_is_unpickled(tmp_path):
  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "exploded"),)
  objects = np.array([Bomb()], dtype=object)
  np.savez(tmp_path / "x.npz", image=objects)
  np.save(tmp_path / "x.npy", objects)
  (tmp_path / "raw.npy").write_bytes(objects.dumps())
  (tmp_path / "text.npz").write_text("no archive")
  for file in ("x.npz", "x.npy", "raw.npy", "text.npz"):
    with pytest.raises(ValueError, match="refused"):
      sources.make("arrays", "train", path=str(tmp_path / file))
  assert not (tmp_path / "exploded").exists()
  with pytest.raises(FileNotFoundError, match="does not exist"):
    sources.make("arrays", "train", path=str(tmp_path / "no.npz"))


# ---- TFDS


@needs_tfds
def test_tfds_reads_without_tensorflow():
  code = f"""
import sys
import numpy as np
from jepa.data import source as sources
load = lambda **kwargs: sources.make("tfds", "train[:300]", name="cifar10", data_dir={str(TFDS)!r}, **kwargs)
disk, ram = load(in_memory=False), load()
assert (disk.length, disk.classes, disk.shape, disk.arrays) == (300, 10, (32, 32, 3), None), disk
assert ram.arrays["image"].dtype == np.uint8
for i in (0, 7, 299):
  a, b = disk.get(i), ram.get(i)
  assert all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
assert load(size=16).shape == (16, 16, 3)
test = sources.make("tfds", "test", name="cifar10:3.0.2", data_dir={str(TFDS)!r}, in_memory=False)
assert test.length == 10000
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
print(disk.describe)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "tfds cifar10/3.0.2, train[:300], 300 images 32x32x3, 10 classes"


def test_tfds_says_what_is_missing_and_downloads_nothing(tmp_path, monkeypatch):
  load = lambda: sources.make("tfds", "train", name="cifar10", data_dir=str(tmp_path / "data"))
  with pytest.raises(FileNotFoundError, match="set config.data.args.data_dir.*tfds build cifar10"):
    load()
  (tmp_path / "data" / "mnist").mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match="there: mnist.*tfds build cifar10 --file_format=array_record"):
    load()
  assert [p.name for p in tmp_path.rglob("*")] == ["data", "mnist"]
  from jepa.data.sources import tfds
  monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None if name == "array_record" else name)
  with pytest.raises(ImportError, match="pip install array_record"):
    load()
