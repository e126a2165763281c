"""World models: their losses, predictors, trajectories made inside the step, and planning with them."""
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import experiment, plan, train, worlds
from jepa.data import sources
from jepa.evals import planning as evals, planning_report
from jepa.losses import dynamics as losses
from jepa.models import dynamics, impala
from tests import runs

CONFIGS = ("two_rooms", "lewm_two_rooms")


# Losses and networks


def test_losses_are_their_numpy_loops():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(5, 4, 3))
  imagined = rng.normal(size=(5, 3, 3))
  np.testing.assert_allclose(losses.rollout(imagined, z), np.mean((imagined - z[:, 1:]) ** 2), rtol=1e-5)
  np.testing.assert_allclose(losses.smoothness(z), np.mean([(z[:, t + 1] - z[:, t]) ** 2 for t in range(3)]),
                             rtol=1e-5)
  spread = [max(0.0, 2 - np.sqrt(z[b, :, d].var(ddof=1) + 1e-4)) for b in range(5) for d in range(3)]
  np.testing.assert_allclose(losses.temporal_variance(z, margin=2.0), np.mean(spread), rtol=1e-5)
  cov = np.cov(z[:, 0].T)
  np.testing.assert_allclose(losses.covariance(z[:, 0]), (cov ** 2)[~np.eye(3, dtype=bool)].sum() / 6, rtol=1e-5)


@pytest.mark.parametrize("kind", dynamics.KINDS)
def test_predictors_read_state_and_action(kind):
  net = dynamics.make(kind=kind, width=8)
  z, a = jax.random.normal(jax.random.key(0), (3, 6)), jax.random.normal(jax.random.key(1), (3, 2))
  params = net.init(jax.random.key(2), z, a)
  out = net.apply(params, z, a)
  assert out.shape == z.shape
  assert np.abs(net.apply(params, z, -a) - out).max() > 1e-4
  assert np.abs(net.apply(params, z[::-1], a) - out).max() > 1e-4
  with pytest.raises(ValueError, match="choose one of gru, mlp"):
    dynamics.make(kind="lstm")


def test_the_transformer_does_not_look_ahead():
  net = dynamics.transformer(width=8, history=4, depth=2, heads=2, gate_std=0.5)
  z, a = jax.random.normal(jax.random.key(0), (2, 4, 8)), jax.random.normal(jax.random.key(1), (2, 4, 3))
  params = net.init(jax.random.key(2), z, a)
  out = net.apply(params, z, a)
  for later in (net.apply(params, z.at[:, 2].multiply(-1), a), net.apply(params, z, a.at[:, 2].multiply(-1))):
    np.testing.assert_allclose(later[:, :2], out[:, :2], atol=1e-6)
    assert np.abs(later[:, 2:] - out[:, 2:]).max((0, 2)).min() > 1e-4
  with pytest.raises(ValueError, match="5 steps exceed its history of 4"):
    net.apply(params, jnp.zeros((1, 5, 8)), jnp.zeros((1, 5, 3)))


def test_zero_gates_make_the_transformer_forget_the_action():
  net = dynamics.transformer(width=8, history=2, depth=1, heads=2)
  z, a = jax.random.normal(jax.random.key(0), (2, 2, 8)), jax.random.normal(jax.random.key(1), (2, 2, 3))
  params = net.init(jax.random.key(2), z, a)
  np.testing.assert_array_equal(net.apply(params, z, a), net.apply(params, z, -a))


@pytest.mark.parametrize("strided", [False, True])
def test_impala_encodes_each_image_by_itself(strided):
  net = impala.impala(widths=(4, 8), outputs=5, blocks=1, strided=strided, groups=2)
  x = jax.random.uniform(jax.random.key(0), (3, 17, 17, 2))
  params = net.init(jax.random.key(1), x)
  np.testing.assert_allclose(net.apply(params, x)[1:2], net.apply(params, x[1:2]), atol=1e-5)
  with pytest.raises(ValueError, match="width of 6 does not split into 4 groups"):
    impala.impala(widths=(6,))


# Trajectories


def test_a_trajectory_is_a_function_of_seed_and_index():
  source = sources.load("world", "train", name="two_rooms", args=dict(random=True), length=5, n=20, test=4)
  assert source.length == 20 and source.shape == (5, 65, 65, 2) and "two_rooms version" in source.describe
  one = jax.jit(source.generate)(7)
  many = jax.jit(jax.vmap(source.generate))(jnp.array([3, 7]))
  for k, v in one.items():
    np.testing.assert_array_equal(v, many[k][1])
  assert one["image"].dtype == np.uint8 and one["action"].shape == (4, 2) and one["position"].shape == (5, 2)
  assert not np.array_equal(many["position"][0], many["position"][1])
  other = sources.load("world", "train", name="two_rooms", args=dict(random=True), length=5, n=20, seed=1)
  assert not np.array_equal(other.generate(7)["position"], one["position"])
  test = sources.load("world", "test", name="two_rooms", args=dict(random=True), length=5, n=20, test=4)
  assert set(test.arrays["index"]).isdisjoint(source.arrays["index"]) and test.length == 4


def test_frames_and_positions_follow_the_actions():
  source = sources.load("world", "train", name="two_rooms", length=6, n=8)
  found = source.generate(2)
  world = worlds.make("two_rooms")
  state = world.problem(jax.random.key(0))[0]._replace(position=found["position"][0])
  for t in range(5):
    np.testing.assert_array_equal(world.render(state), found["image"][t])
    state = world.step(state, found["action"][t])
    np.testing.assert_allclose(world.position(state), found["position"][t + 1], atol=1e-5)


@pytest.mark.parametrize("args,told", [(dict(length=1), "two frames"), (dict(name="two_room"), "did you mean"),
                                       (dict(args=dict(randm=True)), "did you mean 'random'")])
def test_bad_worlds_are_refused(args, told):
  with pytest.raises(ValueError, match=told):
    sources.load("world", "train", **args)


def test_resume_is_bit_exact_with_data_made_in_the_step(tmp_path):
  c = runs.config("two_rooms")
  assert train.run(c, tmp_path / "whole") == 0
  (tmp_path / "half").mkdir()
  for name in ("config.json", "checkpoints"):
    copy = shutil.copytree if name == "checkpoints" else shutil.copy
    copy(tmp_path / "whole" / name, tmp_path / "half" / name)
  shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
  assert train.run(c, tmp_path / "half") == 0
  exp = experiment.build(c)
  a, b = (experiment.load(str(tmp_path / d), exp.abstract, exp.shardings).state for d in ("whole", "half"))
  assert int(a.step) == 4 and runs.equal(a, b)


# Models


@pytest.mark.parametrize("name", CONFIGS)
def test_what_planning_imagines_is_what_was_trained(name):
  """One step from the first frame: `predict` of the world model is the network of the loss."""
  exp = experiment.build(runs.config(name))
  state, batch = experiment.initial_state(exp), runs.batches(exp, 1)[0]
  whole = jax.vmap(exp.train.generate)(batch["index"])
  model = plan.load_model(exp)
  z = model.encode(state.params, state.extra, whole["image"][:, 0])
  ahead = model.predict(state.params, state.extra, z, whole["action"][:, 0])
  real = model.encode(state.params, state.extra, whole["image"][:, 1])
  still, moved = model.distance(z, real), model.distance(ahead, real)
  assert still.shape == (16,) and np.isfinite(moved).all() and np.asarray(still > 0).all()
  tokens = exp.method.embed(state.params, state.extra, batch).tokens
  newest = z.z[:, -1] if name == "lewm_two_rooms" else z
  np.testing.assert_allclose(tokens[:, 0], newest, atol=1e-5)
  np.testing.assert_allclose(model.distance(z, z), 0, atol=1e-6)


def test_a_term_of_pldm_can_be_switched_off():
  on = experiment.build(runs.config("two_rooms"))
  c = runs.config("two_rooms")
  c.args.inverse = 0.0
  off = experiment.build(c)
  assert "inverse" in on.abstract.params and "inverse" not in off.abstract.params


# Planning


def test_wilson_is_the_published_interval():
  # 20 of 20 and 0 of 20 (Newcombe, 1998), 81 of 263
  assert evals.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
  assert evals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
  assert evals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.fixture(scope="module")
def rooms():
  """A world, and a protocol short enough for a test."""
  world = worlds.make("two_rooms")
  return world, evals.Protocol("two_rooms", world.version, {}, 60, 16, 0)


def test_the_true_simulator_beats_a_random_walk(rooms):
  world, protocol = rooms
  energy = evals.of_world(world, horizon=30)
  oracle = evals.planned(world, *energy, name="mppi", horizon=30, every=6, samples=64, iterations=2, std=1.5,
                         temperature=50.0)
  found, episode = evals.run(world, oracle, protocol, chunk=8)
  walk, _ = evals.run(world, evals.random(world), protocol, chunk=8)
  assert found["success"] > walk["success"] + 0.2
  assert found["low"] < found["success"] <= found["high"] and found["episodes"] == 16
  assert episode.live.shape == (16, 60) and episode.done.sum() == found["successes"]


def test_every_policy_meets_the_same_problems(rooms):
  world, protocol = rooms
  _, a = evals.run(world, evals.random(world), protocol, chunk=8)
  _, b = evals.run(world, evals.straight(world), protocol, chunk=16)
  np.testing.assert_array_equal(a.states.position[:, 0], b.states.position[:, 0])


def test_problems_are_those_that_were_met(rooms):
  """Whatever the chunk, and where the last one is not full."""
  world, protocol = rooms
  protocol = protocol._replace(episodes=5, budget=2)
  start, goal = jax.vmap(world.problem)(evals.problem_keys(protocol))
  _, episode = evals.run(world, evals.straight(world), protocol, chunk=3)
  np.testing.assert_array_equal(episode.states.position[:, 0], start.position)
  # a straight line from each start goes towards the goal of the same row
  np.testing.assert_allclose(episode.actions[:, 0], jax.vmap(world.controller)(start, goal), atol=1e-5)


def test_the_states_that_count():
  np.testing.assert_array_equal(evals.weights(4, 0), [1, 1, 1, 1])
  np.testing.assert_array_equal(evals.weights(4, 1), [0, 0, 0, 1])
  with pytest.raises(ValueError, match="last 1 to 4"):
    evals.weights(4, 5)


def test_pictures(tmp_path):
  rng = np.random.default_rng(0)
  for channels in (1, 2, 3):
    frames = rng.integers(0, 255, (4, 8, 8, channels), dtype=np.uint8)
    planning_report.gif(tmp_path / f"{channels}.gif", frames, frames[0])
  planning_report.imagined(tmp_path / "imagined.png", {"a": np.arange(1.0, 4.0)})
  from PIL import Image
  with Image.open(tmp_path / "2.gif") as film:
    assert film.n_frames == 4 and film.size == (48, 24)


def test_the_command(tmp_path):
  """python -m jepa.plan on a run of a few steps, with the memory of its checkpoint: rows and pictures; and a world
  that does not fit."""
  c = runs.config("two_rooms", memory=24)
  c.data.args.args = dict(random=False)
  assert train.run(c, tmp_path) == 0
  command = [sys.executable, "-m", "jepa.plan", f"--workdir={tmp_path}", "--episodes=3", "--budget=6",
             "--horizon=4", "--every=2"]
  rows = [evals.STRAIGHT, evals.TRAINED, evals.ORACLE]
  sets = ["--set=samples=8", "--set=std=1.5", "--subgoals=memory", "--landscapes=0",
          *(f"--subgoals_set={s}" for s in ("trajectories=2", "length=5", "apart=0.0", "capacity=99"))]
  done = subprocess.run([*command, *sets, f"--rows={','.join(rows)}"], cwd=runs.ROOT, capture_output=True, text=True,
                        timeout=240)
  assert done.returncode == 0, done.stderr
  saved = json.loads((tmp_path / "planning" / "results.json").read_text())
  assert list(saved["rows"]) == rows and saved["protocol"]["budget"] == 6
  assert all(row in done.stdout for row in rows)
  assert len(list((tmp_path / "planning").glob("episode*.gif"))) == 3
  for name in ("imagined", "rollouts"):
    assert (tmp_path / "planning" / f"{name}.png").stat().st_size > 5000
  begun, ended = saved["rows"][evals.TRAINED]["remembered"]
  assert "24 latents of the checkpoint" in done.stderr and begun == 24 < ended
  done = subprocess.run([*command, "--world=maze"], cwd=runs.ROOT, capture_output=True, text=True, timeout=240)
  assert done.returncode == 1 and "choose a world of the same images" in done.stderr


def test_settings_on_the_command_line():
  assert plan.settings(["samples=64", "std=(1.0, 2.0)", "name=a b"], "set") == {
      "samples": 64, "std": (1.0, 2.0), "name": "a b"}
  with pytest.raises(ValueError, match="--set=samples is not NAME=VALUE"):
    plan.settings(["samples"], "set")


def test_a_method_without_a_world_model_is_refused():
  with pytest.raises(ValueError, match="simclr predicts no next state"):
    plan.load_model(experiment.build(runs.config("simclr")))
