"""Recorded trajectories: formats, windows, the split by episode, normalisers in the model, open-loop evaluation."""
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from jepa import config as configs, evaluation, experiment, initial, methods, train, worlds
from jepa.data import pipeline, recordings, source as sources
from jepa.data.recordings import donkey, pusht
from jepa.data.sources import trajectories
from jepa.evals import open_loop, results
from jepa.types import WorldModel
from tests import runs

SHARED = runs.ROOT.parent / "shared" / "data"
ENDS = np.array([7, 19, 24, 40])


def recording(side=6):
  """Frame, action and state of step s say s; the third column of the state is constant."""
  s = np.arange(ENDS[-1])
  image = np.broadcast_to(s.astype(np.uint8)[:, None, None, None] * 5, (len(s), side, side, 3)).copy()
  return recordings.Recording(image, np.stack([s, -s], 1).astype(np.float32),
                              np.stack([s, 2 * s, 7 + 0 * s], 1).astype(np.float32), ENDS)


def encoded(image, format):
  file = io.BytesIO()
  Image.fromarray(image).save(file, format, **({"lossless": True} if format == "WEBP" else {}))
  return file.getvalue()


def write_npz(root, r, **more):
  np.savez(root / "x.npz", **{"image": r.image, "action": r.action, "state": r.state, "episode_ends": r.ends} | more)
  return root / "x.npz"


def write_encoded(root, r, name="encoded", format="PNG"):
  parts = [encoded(x, format) for x in r.image]
  np.savez(root / "x.npz", **{name: np.frombuffer(b"".join(parts), np.uint8), "state": r.state, "action": r.action,
                              "offsets": np.cumsum([0] + [len(p) for p in parts]), "episode_ends": r.ends})
  return root / "x.npz"


def write_donkey(root, r):
  write_encoded(root, r, "webp", "WEBP")
  return root


def write_hdf5(root, r):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  with h5py.File(root / "x.h5", "w") as file:
    for k, v in zip(("image", "action", "state", "episode_ends"), r):
      file[k] = v
  return root / "x.h5"


def write_robomimic(root, r):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  with h5py.File(root / "x.hdf5", "w") as file:
    for e, (a, b) in reversed(list(enumerate(recordings.episodes(r.ends)))):
      demo = file.create_group(f"data/demo_{e + 8}")            # demo_10 comes after demo_9
      demo["actions"] = r.action[a:b]
      demo["obs/agentview_image"] = r.image[a:b]
      demo["obs/robot0_eef_pos"], demo["obs/robot0_gripper_qpos"] = r.state[a:b, :1], r.state[a:b, 1:]
      demo["obs/object"] = r.state[a:b] * 0
  return root / "x.hdf5"


def write_lerobot(root, r):
  pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
  from pyarrow import parquet
  (root / "meta").mkdir()
  features = {"observation.image": {"dtype": "image"}, "observation.state": {"dtype": "float32"},
              "action": {"dtype": "float32"}}
  info = {"total_episodes": len(r.ends), "total_frames": len(r.action), "features": features}
  (root / "meta" / "info.json").write_text(json.dumps(info))
  for e, (a, b) in enumerate(recordings.episodes(r.ends)):
    folder = root / "data" / f"chunk-{e // 2:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"observation.image": [{"bytes": encoded(x, "PNG"), "path": None} for x in r.image[a:b]],
                      "observation.state": r.state[a:b].tolist(), "action": r.action[a:b].tolist(),
                      "episode_index": [e] * (b - a), "frame_index": range(b - a)})
    parquet.write_table(table, folder / f"episode_{e:06d}.parquet")
  return root


def write_pusht(root, r):
  np.savez(root / "pusht_demos.npz", action=r.action, state=r.state, episode_ends=r.ends, keypoint=r.state)
  (root / "frames").mkdir()
  for e, (a, b) in enumerate(recordings.episodes(r.ends)):
    grid = np.full((-(-(b - a) // 8), 8, 96, 96, 3), 255, np.uint8)
    grid.reshape(-1, 96, 96, 3)[:b - a] = r.image[a:b]
    sheet = grid.swapaxes(1, 2).reshape(-1, 8 * 96, 3)
    (root / "frames" / f"{e:03d}.webp").write_bytes(encoded(sheet, "WEBP"))
  return root


WRITERS = {"npz": write_npz, "encoded": write_encoded, "donkey": write_donkey, "hdf5": write_hdf5,
           "robomimic": write_robomimic, "lerobot": write_lerobot, "pusht": write_pusht}


# Formats


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_what_was_written(name, tmp_path):
  r = recording(96 if name == "pusht" else 6)
  path = WRITERS[name](tmp_path, r)
  found = recordings.read(path)
  for a, b in zip(found, r):
    np.testing.assert_array_equal(a, b)
  assert [x.dtype for x in found] == [np.uint8, np.float32, np.float32, np.int64]
  small = recordings.read(path, size=4)
  assert small.image.shape == (40, 4, 4, 3) and np.array_equal(small.image[:, 0, 0, 0], 5 * np.arange(40))
  assert recordings.read(path, images=False).image.shape == (40, 0, 0, 0)
  with pytest.raises(ValueError, match="more than limit = 1e-06"):
    recordings.read(path, limit=1e-6)


def test_videos_of_an_episode_each_are_read(tmp_path):
  av = pytest.importorskip("av", reason="PyAV (av) is not installed")
  r = recording(32)
  change(write_lerobot(tmp_path, r) / "meta/info.json", chunks_size=2,
         video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
         features={"cam": {"dtype": "video"}, "observation.state": {"dtype": "float32"},
                   "action": {"dtype": "float32"}})
  for e, (a, b) in enumerate(recordings.episodes(r.ends)):
    file = tmp_path / f"videos/chunk-{e // 2:03d}/cam/episode_{e:06d}.mp4"
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
      stream = container.add_stream("mpeg4", rate=10)
      stream.width = stream.height = 32
      for x in r.image[a:b]:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(x, format="rgb24")))
      container.mux(stream.encode(None))
  found = recordings.read(tmp_path)
  assert np.abs(found.image.astype(int) - r.image).mean() < 4 and np.array_equal(found.state, r.state)
  file.unlink()
  with pytest.raises(ValueError, match="frames of episode 3 cannot be read"):
    recordings.read(tmp_path)


def test_a_format_of_another_repository(tmp_path, monkeypatch):
  (tmp_path / "other_format").mkdir()
  (tmp_path / "other_format" / "counted.py").write_text("""
import numpy as np
from jepa.data.recordings.files import Files

POSITION = (1,)

def read(root, camera):
  counts = np.loadtxt(root, dtype=int)
  frames = lambda e: np.full((counts[e], 4, 4, 3), e, np.uint8)
  steps = np.arange(counts.sum(), dtype=np.float32)
  return Files(frames, steps[:, None], np.stack([steps, -steps], 1), np.cumsum(counts))
""")
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "counts.txt").write_text("3 4 5 3")
  args = dict(path=str(tmp_path / "counts.txt"), format="other_format.counted")
  found = recordings.read(**args)
  assert found.ends.tolist() == [3, 7, 12, 15]
  assert found.image[:, 0, 0, 0].tolist() == np.repeat([0, 1, 2, 3], [3, 4, 5, 3]).tolist()
  window = sources.make("trajectories", "all", **args, length=3).get(1)
  assert window["position"].tolist() == [[-3], [-4], [-5]]
  with pytest.raises(FileNotFoundError, match="nowhere"):
    recordings.read(tmp_path / "nowhere", format="other_format.counted")


def cut(path):
  path.write_bytes(path.read_bytes()[:-200])
  return path


def without(path, name):
  (path / name).unlink()
  return path


def change(info, **fields):
  info.write_text(json.dumps(json.loads(info.read_text()) | fields))


def damages():
  nan = lambda x, at: np.where(np.arange(len(x))[:, None] == at, np.nan, x)
  r = recording()
  yield "cut npz", lambda p: cut(write_npz(p, r)), r"x\.npz' cannot be read as plain NumPy arrays"
  yield "pickle", lambda p: write_npz(p, r, action=np.array([{}] * 40)), "objects, which are refused"
  yield "nan", lambda p: write_npz(p, r._replace(action=nan(r.action, 20))), "action of step 1 of episode 2 is"
  yield "state", lambda p: write_npz(p, r._replace(state=nan(r.state, 0))), "state of step 0 of episode 0 is"
  yield "short", lambda p: write_npz(p, r._replace(image=r.image[:-1])), "39 images and 40 actions"
  yield "states", lambda p: write_npz(p, r._replace(state=r.state[1:])), "40 actions and 39 states"
  yield "ends", lambda p: write_npz(p, r._replace(ends=ENDS[:-1])), "up to 24; expected ascending .* 40"
  yield "order", lambda p: write_npz(p, r._replace(ends=np.array([9, 7, 40]))), "expected ascending integers"
  yield "floats", lambda p: write_npz(p, r._replace(image=r.image / 255)), "frames of episode 0 are float64"
  yield "flat", lambda p: write_npz(p, r._replace(action=r.action[:, 0])), r"action is float32 \(40,\)"
  yield "misnamed", lambda p: misnamed(p, r), "no 'action'; did you mean it by 'actions'"
  yield "offsets", lambda p: cut_bytes(p, r), "41 ascending offsets within it. The file may be cut short"
  yield "cut h5", lambda p: cut(write_hdf5(p, r)), r"x\.h5' cannot be read as HDF5"
  yield "cameras", lambda p: second_camera(p, r), "2 cameras; set .* to one of: agentview_image, wrist"
  yield "demo", lambda p: shorter_demo(p, r), "lengths in demo_9 differ: {'actions': 12, 'agentview_image': 11"
  yield "cut parquet", lambda p: [cut(f) for f in [*write_lerobot(p, r).rglob("*.parquet")][:1]] and p, "cut short"
  yield "lost", lambda p: without(write_lerobot(p, r), "data/chunk-001/episode_000002.parquet"), "says 4 and 40"
  yield "video", lambda p: video(p, r), "pip install av|only videos of one episode each"
  yield "no frames", lambda p: without(write_pusht(p, recording(96)), "frames/001.webp"), "episode 1 cannot be read"
  yield "grid", lambda p: wrong_grid(p), r"a grid of \(96, 768, 3\)"


def cut_bytes(p, r):
  with np.load(write_encoded(p, r)) as data:
    np.savez(p / "y.npz", **{k: data[k] for k in data.files if k != "encoded"}, encoded=data["encoded"][:-9])
  return p / "y.npz"


def misnamed(p, r):
  np.savez(p / "x.npz", image=r.image, actions=r.action, episode_ends=r.ends)
  return p / "x.npz"


def second_camera(p, r):
  path = write_robomimic(p, r)
  import h5py
  with h5py.File(path, "a") as file:
    file["data/demo_8/obs/wrist"] = r.image[:7]
  return path


def shorter_demo(p, r):
  path = write_robomimic(p, r)
  import h5py
  with h5py.File(path, "a") as file:
    del file["data/demo_9/obs/agentview_image"]
    file["data/demo_9/obs/agentview_image"] = r.image[:11]
  return path


def video(p, r):
  change(write_lerobot(p, r) / "meta/info.json", features={"cam": {"dtype": "video"}, "action": {"dtype": "float32"}})
  return p


def wrong_grid(p):
  write_pusht(p, recording(96))
  shutil.copy(p / "frames/000.webp", p / "frames/001.webp")
  return p


DAMAGES = {name: (write, told) for name, write, told in damages()}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(name, tmp_path):
  write, told = DAMAGES[name]
  path = write(tmp_path)
  with pytest.raises((ValueError, ImportError), match=told):
    recordings.read(path)


@pytest.mark.parametrize("args,error,told", [
    (dict(path="nowhere.npz"), FileNotFoundError, "'nowhere.npz' does not exist"),
    (dict(path="tests"), ValueError, "'tests' is no recording that is known.* one of donkey, hdf5"),
    (dict(path="synthetic", format="hdf"), ValueError,
     "did you mean 'hdf5'. Known: donkey, hdf5, lerobot, npz, pusht, synthetic;"),
    (dict(path="synthetic", length=1), ValueError, "length = 1: at least 2"),
    (dict(path="synthetic", frameskip=0), ValueError, "frameskip = 0"),
    (dict(path="synthetic", length=9, frameskip=3), ValueError, "has the 25 steps of a window of 9 frames"),
    (dict(path="synthetic", state=(0, 2)), ValueError, "no column 2; the recorded state has 2"),
    (dict(path="synthetic", test_share=1.0), ValueError, "test_share = 1.0"),
    (dict(path="synthetic", lenght=3), ValueError, "did you mean 'length'")])
def test_wrong_arguments_say_what_to_write(args, error, told, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  with pytest.raises(error, match=told):
    sources.make("trajectories", "train", **args)


# Windows


@pytest.mark.parametrize("length,frameskip,stride", [(2, 1, 1), (4, 1, 2), (3, 3, 1), (5, 2, 3)])
def test_windows_keep_to_their_episode(length, frameskip, stride, tmp_path):
  r, path = recording(), str(write_npz(tmp_path, recording()))
  source = sources.make("trajectories", "all", path=path, length=length, frameskip=frameskip, stride=stride)
  reach, episode = frameskip * (length - 1), np.searchsorted(ENDS, np.arange(40), side="right")
  starts = [s for a, b in recordings.episodes(ENDS) for s in range(a, b, stride) if s + reach < b]
  assert source.length == len(starts) and source.arrays["index"].tolist() == starts
  for n, s in enumerate(starts):
    window = source.get(n)
    steps = s + frameskip * np.arange(length)
    assert len(set(episode[s:s + reach + 1])) == 1
    np.testing.assert_array_equal(window["image"], r.image[steps])
    np.testing.assert_array_equal(window["position"], r.state[steps])
    np.testing.assert_array_equal(
        window["action"], [np.concatenate([r.action[t + k] for k in range(frameskip)]) for t in steps[:-1]])
  assert source.shape == (length, 6, 6, 3) and window["action"].shape == (length - 1, 2 * frameskip)


def test_episodes_are_held_out_whole(tmp_path):
  path = str(write_npz(tmp_path, recording()))
  load = lambda which, **more: sources.make("trajectories", which, path=path, length=3, test_share=0.5,
                                            **more)
  of = lambda source: set(np.searchsorted(ENDS, source.arrays["index"], side="right"))
  parts = [(of(load("train", seed=s)), of(load("test", seed=s))) for s in range(6)]
  assert all(a | b == {0, 1, 2, 3} and not a & b and len(b) == 2 for a, b in parts)
  assert len({tuple(b) for _, b in parts}) > 1 and parts[0] == (of(load("train")), of(load("test")))
  whole = trajectories.split(206)
  assert len(whole["test"]) == 41 and np.array_equal(np.sort(np.concatenate(list(whole.values()))), np.arange(206))
  with pytest.raises(ValueError, match="needs two at least"):
    trajectories.split(1)


def test_batches_are_gathered_and_go_on_where_they_stopped():
  source = sources.make("trajectories", "train", path="synthetic", length=4, frameskip=2)
  other = sources.make("trajectories", "test", path="synthetic")
  assert source.arrays["image"]._data is other.arrays["image"]._data
  stream = pipeline.train(source, batch=8, seed=3)
  batches = [next(stream) for _ in range(5)]
  other = pipeline.train(source, batch=8, seed=3)
  other.set_state({**stream.get_state(), "step": 3})
  for k, v in next(other).items():
    np.testing.assert_array_equal(v, batches[3][k])
  assert {k: (v.shape, v.dtype) for k, v in batches[0].items()} == {
      "image": ((8, 4, 16, 16, 3), np.uint8), "action": ((8, 3, 4), np.float32), "position": ((8, 4, 2), np.float32),
      "label": ((8,), np.int32), "index": ((8,), np.int32)}
  *_, (last, valid) = pipeline.epoch(source, batch=8)
  assert valid == source.length % 8 and not last["position"][valid:].any() and (last["index"][valid:] == -1).all()


# Normalisers


def test_the_normaliser_is_of_the_training_episodes(tmp_path):
  path = str(write_npz(tmp_path, recording()))
  source = sources.make("trajectories", "train", path=path, length=3, frameskip=2)
  trained = trajectories.split(4)["train"]
  steps = np.concatenate([np.arange(a, b) for a, b in recordings.episodes(ENDS)[trained]])
  found = source.normaliser
  np.testing.assert_allclose(found["action"]["mean"], [steps.mean(), -steps.mean()] * 2, rtol=1e-6)
  np.testing.assert_allclose(found["action"]["std"], [steps.std()] * 4, rtol=1e-6)
  np.testing.assert_allclose(found["position"]["mean"], [steps.mean(), 2 * steps.mean(), 7], rtol=1e-6)
  np.testing.assert_allclose(found["position"]["std"], [steps.std(), 2 * steps.std(), 1], rtol=1e-6)
  assert sources.make("trajectories", "train", path=path, length=3, normalise=False).normaliser is None


def test_a_world_is_normalised_only_when_asked(monkeypatch):
  def numbered(made, length, seed, index, span):
    steps = jnp.arange(length) + 10.0 * index
    return {"image": None, "action": steps[:-1, None], "position": jnp.stack([steps, 0 * steps + 2], -1)}
  monkeypatch.setattr(worlds, "trajectory", numbered)
  load = lambda **more: sources.make("world", "train", name="wall", length=5, n=40, **more)
  assert load().normaliser is None
  found, steps = load(normalise=3).normaliser, np.arange(5) + 10.0 * np.arange(3)[:, None]
  np.testing.assert_allclose(found["action"]["std"], steps[:, :-1].std(), rtol=1e-5)
  np.testing.assert_allclose(found["position"]["mean"], [steps.mean(), 2], rtol=1e-5)
  np.testing.assert_allclose(found["position"]["std"], [steps.std(), 1], rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(workdir, parts) of a run of four steps with its evaluation."""
  c, workdir = runs.config("pldm_pusht"), tmp_path_factory.mktemp("run")
  assert train.run(c, workdir) == 0
  return workdir, experiment.build(c)


def test_the_model_keeps_its_normaliser_and_resumes_bit_for_bit(trained, tmp_path):
  workdir, exp = trained
  state = initial.restore(str(workdir), exp.abstract, exp.shardings).state
  for name, saved in state.extra["normaliser"].items():
    for k, v in saved.items():
      np.testing.assert_array_equal(v, exp.train.normaliser[name][k])
  shutil.copytree(workdir, tmp_path / "half")
  shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
  c = runs.config("pldm_pusht")
  c.eval.final, c.eval.floors = ("collapse",), False
  assert train.run(c, tmp_path / "half") == 0
  again = initial.restore(str(tmp_path / "half"), exp.abstract, exp.shardings).state
  assert int(again.step) == 4 and runs.equal(again, state)


def test_raw_actions_are_standardised_for_the_model(trained):
  """In the loss, and in what planning sees: raw in is what standardised in is without the normaliser."""
  _, exp = trained
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  args = exp.config["args"]
  module = configs.module(exp.config["method"], methods.__name__)
  # other than those of the source: what counts is what is in the state
  extra = {"normaliser": {"action": {"mean": jnp.array([1., 2, 3, 4]), "std": jnp.array([1., 2, 4, 8])},
                          "position": state.extra["normaliser"]["position"]}}
  plain = batch | {"action": (batch["action"] - [1, 2, 3, 4]) / [1, 2, 4, 8]}
  method, model = module.make(**args, steps=4), runs.compiled(exp.world)
  bare = runs.compiled(module.world_model(encoder=args["encoder"], predictor=args["predictor"], mean=args["mean"],
                                          std=args["std"]))
  loss = lambda method, *rest: jax.jit(method.loss)(state.params, *rest, jax.random.key(0))[0]
  ours = loss(exp.method, extra, batch)
  np.testing.assert_allclose(ours, loss(method, {}, plain), rtol=1e-5)
  assert abs(float(ours) - float(loss(method, {}, batch))) > 1e-3
  z = model.encode(state.params, extra, batch["image"][:, 0])
  predict = lambda model, extra, action: model.predict(state.params, extra, z, action[:, 0])
  ours = predict(model, extra, batch["action"])
  np.testing.assert_allclose(ours, predict(bare, {}, plain["action"]), atol=1e-5)
  np.testing.assert_allclose(predict(model, {}, batch["action"]), predict(bare, {}, batch["action"]), atol=1e-6)
  assert np.abs(ours - predict(bare, {}, batch["action"])).max() > 1e-3


# Open loop


def dot(latent="array", gain=1.0, encode=lambda x: x):
  """A world model that sees where the dot of the synthetic recording is; a history of two where asked."""
  def see(params, extra, image):
    weight = image[..., 0].astype(jnp.float32) ** 2
    at = jnp.linspace(0, 1, image.shape[1])
    x, y = (encode((weight.sum(axis) * at).sum(-1) / weight.sum((1, 2))) for axis in (1, 2))
    z = jnp.stack([x, y], -1)
    return z if latent == "array" else {"z": jnp.stack([z, z], 1), "action": jnp.zeros((len(z), 1, 2))}
  def predict(params, extra, z, a):
    if latent == "array":
      return z + gain * a
    return {"z": jnp.stack([z["z"][:, 1], z["z"][:, 1] + gain * a], 1), "action": a[:, None]}
  newest = lambda z: z if latent == "array" else z["z"][:, -1]
  return WorldModel(see, predict, lambda a, b: jnp.square(newest(a) - newest(b)).sum(-1))


@pytest.fixture(scope="module")
def parts():
  return [sources.make("trajectories", which, path="synthetic", length=5) for which in ("train", "test")]


def measure(model, parts):
  return open_loop.measure(model, {}, {}, *parts, windows=24, seed=0, chunk=8)


@pytest.mark.parametrize("latent", ["array", "history"])
def test_open_loop_tells_a_right_model_from_its_floors(latent, parts):
  found = measure(dot(latent), parts)
  kinds = {open_loop.MODEL, open_loop.STILL, open_loop.MOTION, open_loop.SHUFFLED}
  assert set(found.distance) == kinds and set(found.position) == kinds | {open_loop.ENCODED} and not found.notes
  right, still, other = (found.distance[k] for k in (open_loop.MODEL, open_loop.STILL, open_loop.SHUFFLED))
  assert right.shape == (4,) and (right < 0.1 * still).all() and (other > 1.2 * still).all()
  assert found.position[""][-1] < 0.3 * found.position["_still"][-1]
  # the floor that nothing moves, in units of the image's side, by its definition
  drawn = open_loop._draw(parts[1], 24, 8, 1).ravel()
  p = parts[1].arrays["position"][drawn]
  still = np.linalg.norm(p[:, 1:] - p[:, :1], axis=-1).mean(0)
  np.testing.assert_allclose(found.position["_still"], still, rtol=0.15)
  wrong = measure(dot(latent, gain=-1.0), parts)
  assert (wrong.distance[""] > wrong.distance["_still"]).all()
  np.testing.assert_allclose(wrong.unrelated, found.unrelated, rtol=1e-5)


def test_mean_motion_follows_a_steady_drift(tmp_path):
  """Frames that grow by one a step: the mean motion says where they are; a model that stands still is the floor."""
  path = str(write_npz(tmp_path, recording()))
  drift = [sources.make("trajectories", which, path=path, length=3, test_share=0.5)
           for which in ("train", "test")]
  model = WorldModel(lambda params, extra, image: image[..., 0].astype(jnp.float32).mean((1, 2))[:, None] / 5,
                     lambda params, extra, z, a: z, lambda a, b: jnp.square(a - b).sum(-1))
  found = measure(model, drift)
  np.testing.assert_allclose(found.distance["_mean_motion"], 0, atol=1e-6)
  for kind in ("", "_still", "_shuffled"):
    np.testing.assert_allclose(found.distance[kind] * found.unrelated, [1, 4], rtol=1e-4)
    np.testing.assert_allclose(found.position[kind], [5 ** 0.5, 20 ** 0.5], rtol=0.05)


def test_a_collapsed_model_is_not_called_exact(parts):
  """Shrunk by a million it predicts as badly as it did; a constant has no distances."""
  small = measure(dot(encode=lambda x: 1e-4 * x, gain=0.0), parts)
  np.testing.assert_allclose(small.distance[""], measure(dot(gain=0.0), parts).distance[""], rtol=1e-2)
  constant = measure(dot(encode=lambda x: 0 * x, gain=0.0), parts)
  assert not constant.distance and constant.unrelated == 0
  assert any("one point" in n for n in constant.notes) and any("no probe" in n for n in constant.notes)


def test_windows_of_another_length_than_in_training(trained):
  _, exp = trained
  state = experiment.initial_state(exp)
  features = evaluation.features_of(exp, state, exp.train, exp.test)
  assert open_loop.missing(features) == ""
  rows = open_loop.evaluate(features, row="a", seed=0, windows=8, length=3, chunk=4)
  assert len(rows[-1]["protocol"]["outcome"]["by_step"]) == 2 and exp.test.shape[0] == 4
  with pytest.raises(ValueError, match="a: no open loop, since it needs a method with a world_model"):
    open_loop.evaluate(features._replace(subject=features.subject._replace(world=None)), row="a", seed=0)


def test_results_and_picture_of_open_loop(trained):
  workdir, exp = trained
  rows = results.read(workdir / "results.json")
  by = {(r["row"], r["metric"]): r for r in rows}
  for row in (results.UNTRAINED, results.TRAINED):
    for metric in ("open_loop", "open_loop_still", "open_loop_mean_motion", "open_loop_shuffled", "position_error",
                   "position_error_encoded"):
      r = by[row, metric]
      assert len(r["protocol"]["outcome"]["by_step"]) == 3 and r["mean"] == r["protocol"]["outcome"]["by_step"][-1]
  assert (workdir / "figures" / "open_loop.png").stat().st_size > 1000
  assert "open loop" in results.table(rows)


# Real data


def test_pusht_frames_show_the_agent_where_the_state_says():
  if not (SHARED / "pusht").exists():
    pytest.skip("the PushT demonstrations are not there (../shared/data/pusht)")
  r = recordings.read(SHARED / "pusht", images=False)
  assert r.state.shape == (25650, 5) and r.action.shape == (25650, 2) and len(r.ends) == 206
  files = pusht.read(SHARED / "pusht", "")
  for e in (0, 150):
    a, b = recordings.episodes(r.ends)[e]
    frames = files.frames(e).astype(int)
    x, y = (r.state[a:b, :2] * 96 / 512).round().astype(int).T
    seen = frames[np.arange(b - a), y, x]
    assert frames.shape == (b - a, 96, 96, 3) and (seen[:, 2] - seen[:, 0] > 60).mean() > 0.95     # blue


def test_donkey_track_is_read():
  if not (SHARED / "donkey_track").exists():
    pytest.skip("the recorded track is not there (../shared/data/donkey_track)")
  r = recordings.read(SHARED / "donkey_track", images=False)
  assert r.action.shape == (9815, 2) and r.state.shape == (9815, 0) and len(r.ends) == 127
  files = donkey.read(SHARED / "donkey_track", "")
  assert files.frames(0).shape == (12, 72, 96, 3)
