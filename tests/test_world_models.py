"""World models: their losses, predictors, and trajectories made inside the step."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import checkpoint, evaluation, experiment, initial, plan, train, worlds
from jepa.data import source as sources
from jepa.losses import dynamics as losses
from jepa.methods import pldm
from jepa.models import backbone, dynamics, frames, impala, pixels, positions, rssm
from tests import runs

CONFIGS = ("two_rooms", "lewm_two_rooms", "dino_wm_two_rooms", "vjepa2_ac_two_rooms", "dreamer_two_rooms",
           "next_frame_two_rooms")


def made(exp, indices):
  """The trajectories of a batch, which the step makes itself."""
  return jax.jit(jax.vmap(exp.train.generate))(indices)


# Losses and networks


def test_losses_are_their_numpy_loops():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(5, 4, 3))
  imagined = rng.normal(size=(5, 3, 3))
  expected = np.mean((imagined - z[:, 1:]) ** 2)
  np.testing.assert_allclose(losses.rollout_error(imagined, z), expected, rtol=1e-5)
  np.testing.assert_allclose(losses.smoothness(z), np.mean([(z[:, t + 1] - z[:, t]) ** 2 for t in range(3)]),
                             rtol=1e-5)
  spread = [max(0.0, 2 - np.sqrt(z[b, :, d].var(ddof=1) + 1e-4)) for b in range(5) for d in range(3)]
  np.testing.assert_allclose(losses.temporal_variance(z, margin=2.0), np.mean(spread), rtol=1e-5)
  cov = np.cov(z[:, 0].T)
  np.testing.assert_allclose(losses.covariance(z[:, 0]), (cov ** 2)[~np.eye(3, dtype=bool)].sum() / 6, rtol=1e-5)


@pytest.mark.parametrize("kind", dynamics.KINDS)
def test_predictors_read_state_and_action(kind):
  net = runs.compiled(dynamics.make(kind=kind, width=8))
  z, a = jax.random.normal(jax.random.key(0), (3, 6)), jax.random.normal(jax.random.key(1), (3, 2))
  params = net.init(jax.random.key(2), z, a)
  out = net.apply(params, z, a)
  assert out.shape == z.shape
  assert np.abs(net.apply(params, z, -a) - out).max() > 1e-4
  assert np.abs(net.apply(params, z[::-1], a) - out).max() > 1e-4
  with pytest.raises(ValueError, match="choose one of gru, mlp"):
    dynamics.make(kind="lstm")
  with pytest.raises(ValueError, match="activation = 'tanh' is unknown; choose gelu or relu"):
    dynamics.make(kind="mlp", activation="tanh")


def test_the_transformer_does_not_look_ahead():
  net = runs.compiled(dynamics.transformer(width=8, history=4, depth=2, heads=2, gate_std=0.5))
  z, a = jax.random.normal(jax.random.key(0), (2, 4, 8)), jax.random.normal(jax.random.key(1), (2, 4, 3))
  params = net.init(jax.random.key(2), z, a)
  out = net.apply(params, z, a)
  for later in (net.apply(params, z.at[:, 2].multiply(-1), a), net.apply(params, z, a.at[:, 2].multiply(-1))):
    np.testing.assert_allclose(later[:, :2], out[:, :2], atol=1e-6)
    assert np.abs(later[:, 2:] - out[:, 2:]).max((0, 2)).min() > 1e-4
  with pytest.raises(ValueError, match="5 steps exceed its history of 4"):
    net.apply(params, jnp.zeros((1, 5, 8)), jnp.zeros((1, 5, 3)))


def test_zero_gates_make_the_transformer_forget_the_action():
  net = runs.compiled(dynamics.transformer(width=8, history=2, depth=1, heads=2))
  z, a = jax.random.normal(jax.random.key(0), (2, 2, 8)), jax.random.normal(jax.random.key(1), (2, 2, 3))
  params = net.init(jax.random.key(2), z, a)
  np.testing.assert_array_equal(net.apply(params, z, a), net.apply(params, z, -a))


@pytest.mark.parametrize("strides", [(), (2, 2), (4, 1)])
def test_impala_encodes_each_image_by_itself(strides):
  net = runs.compiled(impala.impala(widths=(4, 8), outputs=5, blocks=1, strides=strides, groups=2))
  x = jax.random.uniform(jax.random.key(0), (3, 17, 17, 2))
  params = net.init(jax.random.key(1), x)
  np.testing.assert_allclose(net.apply(params, x)[1:2], net.apply(params, x[1:2]), atol=1e-5)
  with pytest.raises(ValueError, match="width of 6 does not split into 4 groups"):
    impala.impala(widths=(6,))


def test_a_first_stage_of_patches_is_a_convolution_without_overlap():
  net = runs.compiled(impala.impala(widths=(4, 8), outputs=5, blocks=0, strides=(5, 2), patches=True))
  x = jax.random.uniform(jax.random.key(0), (3, 15, 10, 2))
  params = net.init(jax.random.key(1), x)
  kernel, bias = (params["stage0"]["patch"][k] for k in ("kernel", "bias"))
  assert kernel.shape == (50, 4)
  first = impala.Patches(4, 5, 4, jnp.float32).apply({"params": params["stage0"]}, x)
  same = jax.lax.conv_general_dilated(x, kernel.reshape(5, 5, 2, 4), (5, 5), "VALID",
                                      dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
  mean, var = same.mean((1, 2), keepdims=True), same.var((1, 2), keepdims=True)      # a group a channel
  np.testing.assert_allclose(first, np.maximum((same - mean) / np.sqrt(var + 1e-6), 0), atol=1e-4)
  assert net.apply(params, x).shape == (3, 5)
  with pytest.raises(ValueError, match="17x17 is not divisible into patches of 5"):
    net.apply(params, jnp.zeros((1, 17, 17, 2)))
  with pytest.raises(ValueError, match="give strides"):
    impala.impala(patches=True)


@pytest.mark.parametrize("name, activation", [("gelu", lambda h: jax.nn.gelu(h, approximate=False)),
                                              ("relu", jax.nn.relu)])
def test_gates_multiply_what_is_normed(name, activation):
  net = runs.compiled(dynamics.make(kind="mlp", width=6, depth=1, norm=True, gated=True, activation=name))
  z, a = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.normal(jax.random.key(1), (4, 2))
  params = net.init(jax.random.key(2), z, a)
  x, dense = np.concatenate([z, a], 1), lambda p, x: x @ p["kernel"] + p["bias"]
  h = dense(params["hidden0"], x)
  h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
  h = h * activation(dense(params["gate0"], x))
  np.testing.assert_allclose(net.apply(params, z, a), z + dense(params["out"], h), atol=1e-4)


def test_members_go_their_own_ways_and_their_disagreement_counts():
  """Each is a predictor by itself; the loss is the mean of theirs; the distance grows with their variance."""
  c = runs.rooms()
  c.args.predictor, c.args.disagreement = dict(kind="mlp", width=8, members=3), 5.0
  exp = experiment.build(c)
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  model, whole = runs.compiled(plan.load_model(exp)), made(exp, batch["index"])
  args, action = (state.params, state.extra), whole["action"][:, 0]
  z = model.encode(*args, whole["image"][:, 0])
  ahead, goal = model.predict(*args, z, action), model.encode(*args, whole["image"][:, 1])
  one = runs.compiled(dynamics.make(kind="mlp", width=8))
  for i in range(3):
    np.testing.assert_array_equal(z[:, i], z[:, 0])
    np.testing.assert_allclose(ahead[:, i], one.apply(state.params["predictor"][f"member{i}"], z[:, i], action),
                               atol=1e-5)
  assert ahead.shape == (16, 3, 8) and np.ptp(ahead, 1).min() > 0
  ahead, goal = np.asarray(ahead), np.asarray(goal)
  np.testing.assert_allclose(model.distance(ahead, goal),
                             np.square(ahead - goal).mean((1, 2)) + 5 * ahead.var(1).mean(1), rtol=1e-4)
  short = {k: v[:, :2] if k == "image" else v[:, :1] for k, v in whole.items() if k != "position"}
  loss = jax.jit(pldm.make(**c.args, steps=1).loss)(*args, short, jax.random.key(0))[1][1]["prediction"]
  np.testing.assert_allclose(loss, np.square(ahead - goal).mean(), rtol=1e-4)


# Trajectories


def test_a_trajectory_is_a_function_of_seed_and_index():
  source = sources.make("world", "train", name="two_rooms", args=dict(random=True), length=5, n=20, test=4)
  assert source.length == 20 and source.shape == (5, 65, 65, 2) and "two_rooms version" in source.describe
  one = jax.jit(source.generate)(7)
  many = jax.jit(jax.vmap(source.generate))(jnp.array([3, 7]))
  for k, v in one.items():
    np.testing.assert_array_equal(v, many[k][1])
  assert one["image"].dtype == np.uint8 and one["action"].shape == (4, 2) and one["position"].shape == (5, 2)
  assert not np.array_equal(many["position"][0], many["position"][1])
  other = sources.make("world", "train", name="two_rooms", args=dict(random=True), length=5, n=20, seed=1)
  assert not np.array_equal(other.generate(7)["position"], one["position"])
  test = sources.make("world", "test", name="two_rooms", args=dict(random=True), length=5, n=20, test=4)
  assert set(test.arrays["index"]).isdisjoint(source.arrays["index"]) and test.length == 4


def test_a_window_lies_anywhere_in_its_span():
  make = lambda **args: sources.make("world", "train", name="two_rooms", args=dict(random=True), n=20, **args)
  whole, part = make(length=20), make(length=5, span=20)
  places = set()
  for i in range(6):
    long, short = jax.jit(whole.generate)(i), jax.jit(part.generate)(i)
    first = int(np.abs(long["action"][:16] - short["action"][0]).sum(1).argmin())
    places.add(first)
    for k, count in (("position", 5), ("action", 4), ("image", 5)):
      np.testing.assert_allclose(short[k], long[k][first:first + count], atol=1e-3)
  assert len(places) > 2
  with pytest.raises(ValueError, match="no window of 5 frames fits"):
    make(length=5, span=4)


def test_frames_and_positions_follow_the_actions():
  source = sources.make("world", "train", name="two_rooms", length=6, n=8)
  found = source.generate(2)
  world = worlds.make("two_rooms")
  state = world.problem(jax.random.key(0))[0]._replace(position=found["position"][0])
  for t in range(5):
    np.testing.assert_array_equal(world.render(state), found["image"][t])
    state = world.step(state, found["action"][t])
    np.testing.assert_allclose(world.position(state), found["position"][t + 1], atol=1e-5)


@pytest.mark.parametrize("args,told", [(dict(length=1), "two frames"), (dict(name="two_room"), "did you mean"),
                                       (dict(args=dict(randm=True)), "did you mean 'random'"),
                                       (dict(name="pusht_gym"), "steps on the host.*jepa.worlds.collect")])
def test_bad_worlds_are_refused(args, told):
  with pytest.raises(ValueError, match=told):
    sources.make("world", "train", **args)


def test_resume_is_bit_exact_with_data_made_in_the_step(tmp_path):
  c = runs.rooms()
  assert train.run(c, tmp_path / "whole") == 0
  (tmp_path / "half").mkdir()
  for name in ("config.json", "checkpoints"):
    copy = shutil.copytree if name == "checkpoints" else shutil.copy
    copy(tmp_path / "whole" / name, tmp_path / "half" / name)
  shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
  assert train.run(c, tmp_path / "half") == 0
  exp = experiment.build(c)
  a, b = (initial.restore(str(tmp_path / d), exp.abstract, exp.shardings).state for d in ("whole", "half"))
  assert int(a.step) == 4 and runs.equal(a, b)


# Models


@pytest.mark.parametrize("name", ["two_rooms", "dino_wm_two_rooms", *(
    pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS if n not in ("two_rooms", "dino_wm_two_rooms"))])
def test_what_planning_imagines_is_what_was_trained(name):
  """One step from the first frame: `predict` of the world model is the network of the loss."""
  exp = experiment.build(runs.config(name))
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  whole = made(exp, batch["index"])
  model = runs.compiled(plan.load_model(exp))
  z = model.encode(state.params, state.extra, whole["image"][:, 0])
  ahead = model.predict(state.params, state.extra, z, whole["action"][:, 0])
  real = model.encode(state.params, state.extra, whole["image"][:, 1])
  still, moved = model.distance(z, real), model.distance(ahead, real)
  # a trajectory may begin at a wall, and stay
  assert still.shape == (16,) and np.isfinite(moved).all() and np.asarray(still > 0).mean() > 0.5
  tokens = jax.jit(exp.method.embed)(state.params, state.extra, batch).tokens
  if isinstance(z, frames.Window):
    np.testing.assert_allclose(tokens, z.z[:, 0], atol=1e-5)
  else:
    newest = {"lewm_two_rooms": lambda: z.z[:, -1], "dreamer_two_rooms": lambda: z.z}.get(name, lambda: z)()
    np.testing.assert_allclose(tokens[:, 0], newest, atol=1e-5)
  np.testing.assert_allclose(model.distance(z, z), 0, atol=1e-6)


def test_the_last_evaluation_makes_few_trajectories(tmp_path, monkeypatch):
  """A world has as many as one likes: a run over a million of them ends with an evaluation of some."""
  c = runs.rooms()
  c.data.args.n = 1_000_000
  exp = experiment.build(c)
  monkeypatch.setattr(evaluation, "MADE", 32)
  evaluation.final(exp, experiment.initial_state(exp), tmp_path)
  saved = json.loads((tmp_path / "results.json").read_text())
  assert {r["protocol"]["counts"]["samples"] for r in saved if r["metric"] == "rankme"} == {32}
  assert "32 of them at random" in saved[0]["protocol"]["train"]


def test_a_term_of_pldm_can_be_switched_off():
  on = experiment.build(runs.config("two_rooms"))
  c = runs.config("two_rooms")
  c.args.inverse = 0.0
  off = experiment.build(c)
  assert "inverse" in on.abstract.params and "inverse" not in off.abstract.params


def test_pldm_learns_a_predictor_over_a_frozen_encoder(tmp_path):
  """The encoder of a run of its own stays as it was, and planning sees it."""
  theirs = experiment.build(runs.rooms())
  saved = experiment.initial_state(theirs)
  with checkpoint.open(tmp_path / "checkpoints") as checkpointer:
    checkpoint.save(checkpointer, saved, data={}, config=theirs.config)
  c = runs.rooms(seed=1)
  c.args.frozen, c.init.encoder = True, str(tmp_path)
  exp = experiment.build(c)
  with checkpoint.open(tmp_path / "none") as empty:
    state, _, _ = initial.start(exp, empty)
  predictor = jax.device_get(state.params["predictor"])
  step = jax.jit(exp.step)
  for batch in runs.batches(exp, 2):
    state, metrics = step(state, batch)
  assert "encoder" not in state.params and runs.equal(state.extra["encoder"], saved.params["encoder"])
  assert not runs.equal(state.params["predictor"], predictor) and metrics["prediction"] > 0
  image = made(exp, np.arange(2))["image"][:, 0]
  z, as_theirs = (jax.jit(plan.load_model(e).encode)(s.params, s.extra, image)
                  for e, s in ((exp, state), (theirs, saved)))
  np.testing.assert_array_equal(z, as_theirs)


def test_pldm_on_a_vit_with_a_transformer():
  c = runs.config("two_rooms")
  c.args.encoder = dict(kind="vit", width=8, depth=1, heads=1, patch=13, outputs=8)
  c.args.predictor = dict(kind="transformer", width=8, depth=1, heads=1, gate_std=0.1)
  exp = experiment.build(c)
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  model, whole = runs.compiled(plan.load_model(exp)), made(exp, batch["index"])
  z = model.encode(state.params, state.extra, whole["image"][:, 0])
  ahead = [model.predict(state.params, state.extra, z, a * whole["action"][:, 0]) for a in (1.0, -1.0)]
  assert z.shape == ahead[0].shape == (16, 8) and np.abs(ahead[0] - ahead[1]).max() > 1e-4
  with pytest.raises(ValueError, match="choose one of impala, vit"):
    backbone.vector(kind="convnet")


# Frames of patch tokens


@pytest.mark.parametrize("name", ["joined", "interleaved"])
def test_frames_do_not_look_ahead(name):
  """A change in the last frame, or in its action, is seen by all of that frame's tokens and by none before."""
  z, a, s = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 3, 4, 6), (2, 3, 2),
                                                                                    (2, 3, 2)]))
  if name == "joined":
    net = runs.compiled(frames.joined(history=3, depth=1, heads=2))
    inputs = lambda z, a: (jnp.concatenate([z, jnp.repeat(a[:, :, None], 4, 2)], -1),)
  else:
    net = runs.compiled(frames.interleaved(width=12, depth=1, heads=1))
    inputs = lambda z, a: (z, a, s)
  params = net.init(jax.random.key(3), *inputs(z, a))
  out = net.apply(params, *inputs(z, a))
  for changed in ((z.at[:, 2, 0].multiply(-1), a), (z, a.at[:, 2].multiply(-1))):
    found = net.apply(params, *inputs(*changed))
    np.testing.assert_allclose(found[:, :2], out[:, :2], atol=1e-6)
    assert np.abs(found[:, 2] - out[:, 2]).max((0, 2)).min() > 1e-4
  if name == "joined":
    with pytest.raises(ValueError, match="4 frames exceed its history of 3"):
      net.apply(params, jnp.zeros((1, 4, 4, 8)))


def test_a_window_grows_then_slides():
  z = jnp.arange(5.0).reshape(5, 1, 1, 1)
  window = frames.begin(z[0], z[0, :, 0], history=3, actions=1)
  for t in range(1, 5):
    window = frames.append(frames.act(window, -z[t, :, 0]), z[t], z[t, :, 0])
    assert frames.newest(window, window.z)[0, 0, 0] == t and window.count[0] == min(t + 1, 3)
  np.testing.assert_array_equal(window.z.ravel(), [2, 3, 4])
  np.testing.assert_array_equal(window.s.ravel(), [2, 3, 4])
  np.testing.assert_array_equal(window.a.ravel()[:2], [-3, -4])     # of the first two; the third is yet to be taken


@pytest.mark.parametrize("name", ["dino_wm_two_rooms", "vjepa2_ac_two_rooms"])
def test_imagination_is_the_predictor_on_the_whole_history(name):
  """Two steps by `predict` are the network on the frames in a row."""
  exp = experiment.build(runs.config(name))
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  whole = made(exp, batch["index"])
  model, args, a = runs.compiled(plan.load_model(exp)), exp.config["args"], whole["action"]
  start = model.encode(state.params, state.extra, whole["image"][:, 0])
  one = model.predict(state.params, state.extra, start, a[:, 0])
  two = model.predict(state.params, state.extra, one, a[:, 1])
  if name.startswith("dino"):
    inputs = (jnp.concatenate([one.z[:, :2], *(jnp.repeat(x[:, :, None], one.z.shape[2], 2) for x in (
        one.s[:, :2], a[:, :2] @ state.params["action"]["kernel"]))], -1),)
    net = frames.joined(**args["predictor"])
  else:
    inputs, net = (one.z[:, :2], a[:, :2], one.s[:, :2]), frames.interleaved(**args["predictor"])
  want = jax.jit(net.apply)(state.params["predictor"], *inputs)[:, -1, :, :one.z.shape[-1]]
  np.testing.assert_allclose(two.z[:, 2], want, atol=1e-4)


def test_rotary_places_are_relative_and_only_temporal_without_a_place():
  q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
  score = lambda a, b: (positions.rotate(q, positions.rope_3d(np.array([a]), 16))
                        * positions.rotate(k, positions.rope_3d(np.array([b]), 16))).sum()
  np.testing.assert_allclose(score((1, 2, 3), (4, 4, 4)), score((0, 0, 0), (3, 2, 1)), rtol=1e-4)
  for moved in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
    assert abs(score(moved, (0, 0, 0)) - score((0, 0, 0), (0, 0, 0))) > 1e-3


def test_a_frozen_encoder_comes_from_another_run(tmp_path):
  """LeWM's ViT, the same network on the same pixels, is frozen by DINO-WM; another is refused, with the reason."""
  theirs = experiment.build(runs.config("lewm_two_rooms"))
  saved = experiment.initial_state(theirs)
  trained = jax.tree.map(lambda x: x + 1, saved.params["encoder"])
  saved = saved._replace(params=saved.params | {"encoder": trained})
  with checkpoint.open(tmp_path / "checkpoints") as checkpointer:
    checkpoint.save(checkpointer, saved, data={}, config=theirs.config)
  c = runs.config("dino_wm_two_rooms")
  c.init.encoder = str(tmp_path)
  exp = experiment.build(c)
  with checkpoint.open(tmp_path / "none") as empty:
    state, _, told = initial.start(exp, empty)
  assert "encoder of" in told and runs.equal(state.extra["encoder"], trained)
  encoder = c.args.encoder.to_dict()
  for name, value, reason in (("std", (0.5, 0.5), "std: "), ("encoder", encoder | dict(heads=1), "heads: 2"),
                              ("encoder", encoder | dict(cls=False), "only in the checkpoint: cls/token"),
                              ("encoder", encoder | dict(depth=2), r"\(1, 16\) in the checkpoint, \(2, 16\)")):
    other = runs.config("dino_wm_two_rooms")
    other.init.encoder = str(tmp_path)
    del other.args[name]
    other.args[name] = value
    other = experiment.build(other)
    with pytest.raises(checkpoint.Mismatch, match=reason):
      initial._with_encoder(other, other.abstract, str(tmp_path))


def test_the_target_is_frozen_where_there_is_one(tmp_path):
  """I-JEPA's EMA target, not its encoder."""
  theirs = experiment.build(runs.config("ijepa"))
  saved = experiment.initial_state(theirs)
  saved = saved._replace(extra={"target": jax.tree.map(lambda x: x + 1, saved.extra["target"])})
  with checkpoint.open(tmp_path / "checkpoints") as checkpointer:
    checkpoint.save(checkpointer, saved, data={}, config=theirs.config)
  like = lambda tree: tree._replace(params={}, extra={"encoder": tree.extra["target"]})
  wants = theirs._replace(abstract=like(theirs.abstract), shardings=like(theirs.shardings))
  state = initial._with_encoder(wants, wants.abstract, str(tmp_path))
  assert runs.equal(state.extra["encoder"], saved.extra["target"])


# Pixels


def test_drawn_states_and_their_nats():
  logits = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 3, 4)))
  other = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (2, 3, 4)))
  want = sum(np.exp(p) * (p - q) for p, q in zip(np.ravel(logits[0]), np.ravel(other[0])))
  np.testing.assert_allclose(rssm.kl(logits, other)[0], want, rtol=1e-5)
  z = jax.vmap(lambda k: rssm.draw(k, logits))(jax.random.split(jax.random.key(2), 4000))
  np.testing.assert_allclose(z.mean(0), rssm.mean(logits), atol=0.04)
  np.testing.assert_allclose(z.reshape(-1, 3, 4).sum(-1), 1, atol=1e-6)


def test_the_convolutional_decoder_has_every_pixel():
  net = runs.compiled(pixels.convolutional(shape=(13, 10, 2), widths=(4, 4)))
  z = jax.random.normal(jax.random.key(0), (3, 5))
  params = net.init(jax.random.key(1), z)
  image = net.apply(params, z)
  assert image.shape == (3, 13, 10, 2) and np.asarray(image.std(0) > 1e-4).all()
