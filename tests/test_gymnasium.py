"""Environments that step on the host: the adapter on a dot whose law is known, planning in it, gym-pusht on human
demonstrations, trajectories on disk."""
import errno
import json
import os
from pathlib import Path
import zipfile

from absl import flags
from absl.testing import flagsaver
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import checkpoint, config as configs, experiment, logs, plan, worlds
from jepa.data import recordings
from jepa.data.recordings import pusht as pusht_format
from jepa.data.source import Source
from jepa.data.sources import trajectories
from jepa.planning import agents, control, hosts
from jepa.planning.protocol import RANDOM, STRAIGHT, TRAINED, Protocol
from jepa.types import WorldModel
from jepa.worlds import collect, gymnasium, host, pusht_gym
from tests import runs

PUSHT = Path(os.environ.get("JEPA_PUSHT", runs.ROOT.parent / "shared" / "data" / "pusht"))
DOT = "gymnasium:jepa_test/Dot-v0"


def library(name, install):
  try:
    return gymnasium.library(name, install)
  except RuntimeError as error:
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def dot():
  """An environment in which all is known: a dot at x, y in 0 .. 1 that goes by a tenth of the action. Its episode is
  over once it is at the right border."""
  gym = library("gymnasium", "gymnasium")

  class Dot(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None, says=True):
      self.render_mode, self.says = render_mode, says

    def reset(self, *, seed=None, options=None):
      super().reset(seed=seed)
      self.place = self.np_random.uniform(0.2, 0.8, 2)
      return self.place.astype(np.float32), {}

    def step(self, action):
      assert self.place[0] < 1, "stepped after the end"
      self.place = np.clip(self.place + 0.1 * action, 0, 1)
      info = {"is_success": bool(self.place[1] > 0.95)} if self.says else {}
      return self.place.astype(np.float32), 0.0, bool(self.place[0] >= 1), False, info

    def render(self):
      y, x = np.mgrid[:32, :32] / 31
      light = np.exp(-((x - self.place[0])**2 + (y - self.place[1])**2) / 0.01)
      return np.repeat(np.uint8(255 * light)[..., None], 3, -1)

  if "jepa_test/Dot-v0" not in gym.registry:
    gym.register("jepa_test/Dot-v0", entry_point=Dot)
  return Dot


@pytest.fixture(scope="module")
def table(dot):
  return worlds.make(DOT, size=16, tolerance=0.1, ahead=6)


def protocol(world, episodes, budget):
  return Protocol(world.name, world.version, {}, budget, episodes, 0, *world.texts)


def moves(*actions, skip=1):
  """An agent that takes these, in blocks of `skip`, and then the last of them."""
  actions = jnp.float32(actions).reshape(-1, 2 * skip)
  act = lambda key, seen, goal, t: (actions[jnp.minimum(t, len(actions) - 1)][None], jnp.float32(t), t + 1)
  nothing = lambda _: jnp.zeros(())
  return agents.Agent(control.Policy(1, lambda key: jnp.int32(0), act), nothing, nothing)


# ---- the adapter ----

def test_a_batch_is_its_environments_side_by_side(table, dot):
  batch = host.Batch(table.driver, 3)
  batch.reset([5, 6, 5], np.zeros((3, 0)))
  alone = [dot(), dot()]
  start = np.stack([alone[0].reset(seed=5)[0], alone[1].reset(seed=6)[0]])
  np.testing.assert_array_equal(batch.states(), start[[0, 1, 0]])
  before = batch.look()
  told = batch.step(np.float32([[0.5, 1], [-9, 0], [0, 1]]), np.array([True, True, False]))
  np.testing.assert_allclose(batch.states() - start[[0, 1, 0]], [[.05, .1], [-.1, 0], [0, 0]], atol=1e-6)   # clipped
  after = batch.look()
  assert after.image.shape == (3, 16, 16, 3) and after.image.dtype == np.uint8 and table.image == (16, 16, 3)
  moved = (after.image != before.image).any((1, 2, 3))
  assert moved.tolist() == [True, True, False] and not told.any()
  column, row = (after.image[0, ..., 0].sum(a).argmax() for a in (0, 1))
  np.testing.assert_allclose(np.array([column, row]) / 15, batch.states()[0], atol=0.05)
  for _ in range(9):
    batch.step(np.float32([[1, 0]] * 3))                             # the dot itself refuses a step after its end
  assert batch.over.all() and (batch.states()[:, 0] == 1).all()


def test_problems_are_reached_by_their_actions_and_do_not_depend_on_how_many(table):
  found, _ = table.problems(3, 5)
  few, _ = table.problems(3, 2)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:2], b), found, few)
  batch = host.Batch(table.driver, 5)
  batch.reset(found.seed, found.start)
  for a in found.actions.swapaxes(0, 1):
    batch.step(a)
  np.testing.assert_array_equal(batch.states(), found.goal.state)
  np.testing.assert_array_equal(batch.look().image, found.goal.image)
  assert len(np.unique(found.seed)) == 5 and not np.array_equal(table.problems(4, 1)[0].seed, found.seed[:1])


def test_smoothed_actions_are_uniform_and_keep_to_the_last():
  act = gymnasium.smooth(np.random.default_rng(0), np.float32([0, -1]), np.float32([512, 1]))
  a = np.stack([act(None) for _ in range(4000)])
  share = (np.quantile(a, [0.1, 0.5, 0.9], 0) - [0, -1]) / [512, 2]
  np.testing.assert_allclose(share, [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]], atol=0.05)
  assert 0.7 < np.corrcoef(a[:-1, 0], a[1:, 0])[0, 1] < 0.85 and abs(np.corrcoef(a.T)[0, 1]) < 0.15


def test_pictures_are_resized_to_height_and_width():
  image = np.uint8([[0, 0, 255], [0, 0, 255]])
  found = host.resized(image, (8, 3))
  assert found.shape == (8, 3, 1) and (found == np.uint8([0, 0, 255])[:, None]).all()
  assert host.resized(np.stack([image] * 3, -1), (4, 6)).shape == (4, 6, 3)


def test_what_cannot_be_driven_is_refused(dot):
  with pytest.raises(ValueError, match="cannot make 'nope-v0'"):
    worlds.make("gymnasium:nope-v0")
  with pytest.raises(ValueError, match="planning needs a Box"):
    worlds.make("gymnasium:CartPole-v1")
  with pytest.raises(ValueError, match="gymnasium.sise is not an option.*size"):
    worlds.make(DOT, sise=3)
  silent = worlds.make(DOT, args={"says": False})
  with pytest.raises(ValueError, match="give tolerance"):
    hosts.run(silent, moves([0, 0]), protocol(silent, 1, 1), silent.problems(0, 1)[0])
  with pytest.raises(RuntimeError, match="pip install something"):
    gymnasium.library("no_such_module", "something")


# ---- the loop ----

def test_episodes_stop_at_success_and_at_their_end(table):
  """Up until y > 0.95, as the environment tells; to the right until it is over, which is no success."""
  world = worlds.make(DOT, size=16)
  problems, _ = world.problems(0, 3)
  up, episode, films = hosts.run(world, moves([0, 1]), protocol(world, 3, 9), problems, chunk=2)
  y = episode.states[:, 0, 1]
  needed = np.ceil((0.95 - y) / 0.1).astype(int)
  assert up["successes"] == 3 and episode.live.sum(1).tolist() == needed.tolist() == [len(f) - 1 for f in films]
  for i, n in enumerate(needed):
    assert (episode.states[i, n, 1] > 0.95) and (episode.states[i, n:] == episode.states[i, n]).all()
    np.testing.assert_array_equal(episode.live[i], np.arange(9) < n)
  np.testing.assert_array_equal(episode.energies, [np.arange(9.0)] * 3)
  right, episode, _ = hosts.run(world, moves([1, 0]), protocol(world, 3, 9), problems)
  assert right["successes"] == 0 and (episode.live.sum(1) < 9).all() and (episode.states[:, -1, 0] == 1).all()


def test_an_action_of_two_steps_is_one_after_the_other(table):
  problems, _ = table.problems(0, 3)
  run = lambda agent, budget=5, chunk=25: hosts.run(table, agent, protocol(table, 3, budget), problems,
                                                    chunk=chunk)[1]
  far = [[-.9, .1], [.3, -.8], [-.9, .1], [.3, -.8]]
  one, two = run(moves(*far)), run(moves(*far, skip=2))
  np.testing.assert_array_equal(one.actions[:, :4], two.actions[:, :4])
  np.testing.assert_array_equal(one.states[:, :5], two.states[:, :5])
  assert two.states.shape == (3, 6, 2) and two.energies.shape == (3, 3)
  np.testing.assert_array_equal(two.states, run(moves(*far, skip=2), chunk=2).states)
  with pytest.raises(ValueError, match="3 numbers, those of .* 2"):
    wide = control.Policy(1, lambda k: (), lambda k, s, g, m: (jnp.zeros((1, 3)), jnp.float32(0), m))
    run(agents.Agent(wide, lambda s: s.state, lambda p: jnp.zeros(())))


def seeing(skip):
  """A world model that reads the dot off its picture and knows its law."""
  at = jnp.linspace(0, 1, 16)

  def encode(params, extra, image):
    light = image[..., 0].astype(jnp.float32) ** 2
    light = light / light.sum((1, 2), keepdims=True)
    return jnp.stack([(light.sum(1) * at).sum(-1), (light.sum(2) * at).sum(-1)], -1)
  return WorldModel(encode, lambda p, e, z, a: jnp.clip(z + 0.1 * a.reshape(len(a), skip, 2).sum(1), 0, 1),
                    lambda z, goal: jnp.square(z - goal).sum(-1))


def test_a_planner_reaches_what_it_sees(table):
  """Whatever the units in which it searches."""
  problems, _ = table.problems(1, 8)
  ask = protocol(table, 8, 12)
  search = dict(skip=2, horizon=3, name="cem", every=1, samples=64, elites=8, iterations=4)
  stored = {"normaliser": {"action": {"mean": np.full(4, 0.2, np.float32), "std": np.full(4, 0.4, np.float32)}}}
  both = np.kron(np.ones((2, 2)) + 1e-3 * np.eye(2), 0.4 * np.eye(2)).astype(np.float32)        # the two alike
  for extra, root in (({}, None), (stored, None), (stored, np.linalg.cholesky(both))):
    agent = hosts.planned(table, seeing(2), {}, extra, root=root, **search)
    found, episode, _ = hosts.run(table, agent, ask, problems, chunk=4)
    assert found["successes"] == 8 and (np.abs(episode.actions) <= 1 + 1e-6).all()
  again = hosts.run(table, agent, ask, problems, chunk=4)[1]
  np.testing.assert_array_equal(again.states, episode.states)
  walk, _, _ = hosts.run(table, hosts.floors(table)[RANDOM], ask, problems)
  replay, _, _ = hosts.run(table, hosts.floors(table)[hosts.REPLAY], ask, problems)
  assert walk["successes"] < 8 == replay["successes"]
  with pytest.raises(ValueError, match="tree plans step by step, which is not possible in gymnasium:"):
    hosts.planned(table, seeing(2), {}, {}, **search | {"name": "tree"})
  with pytest.raises(ValueError, match="trained on actions of 4 numbers"):
    hosts.planned(table, seeing(3), {}, stored, **search | {"skip": 3})


def test_the_root_of_actions_is_that_of_their_covariance():
  rng = np.random.default_rng(0)
  mix = np.array([[1.0, 0.5, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.0]])        # the third never moves
  actions = (rng.standard_normal((500, 4, 3)) @ mix + 7).astype(np.float32)
  source = Source(length=500, classes=0, shape=(), get=None, arrays={"action": actions}, describe="")
  root = hosts.root_of(source, windows=500)
  np.testing.assert_allclose(root @ root.T, np.cov(actions.reshape(-1, 3).T), atol=2e-6)


def test_pictures_are_drawn_only_for_those_who_look(table):
  problems, _ = table.problems(0, 2)
  seen = []
  image = lambda env, o: seen.append(0) or table.driver.image(env, o)
  watched = table._replace(driver=table.driver._replace(image=image))
  hosts.run(watched, hosts.floors(table)[RANDOM], protocol(table, 2, 4), problems, films=0)
  assert not seen
  agent = hosts.planned(watched, seeing(1), {}, {}, horizon=2, every=2, name="shooting", samples=4)
  _, episode, _ = hosts.run(watched, agent, protocol(table, 2, 4), problems, films=0)
  assert len(seen) == 2 + episode.live[:, 0].sum() > 2                # two looks at what has moved


def test_the_command(tmp_path, table, capsys):
  """jepa.plan in a world on the host, with a model of a run: rows, results and pictures."""
  c = runs.config("pldm_pusht")
  logs.write_json(tmp_path / "config.json", configs.plain(c))
  exp = experiment.build(c)
  with checkpoint.open(tmp_path / "checkpoints") as saver:
    checkpoint.save(saver, experiment.initial_state(exp), data={}, config={})
  rows = [hosts.REPLAY, TRAINED]
  with flagsaver.flagsaver():
    flags.FLAGS(["plan", f"--workdir={tmp_path}", f"--world={DOT}", "--world_set=tolerance=0.1",
                 "--world_set=ahead=6", "--episodes=3", "--budget=6", "--horizon=2", "--every=1", "--set=samples=8",
                 "--set=elites=4",
                 f"--rows={','.join(rows)}"])
    plan.main()
  saved = json.loads((tmp_path / "planning" / "results.json").read_text())
  assert list(saved["rows"]) == rows and saved["rows"][hosts.REPLAY]["success"] == 1
  assert saved["protocol"]["world_args"] == {"size": 16, "tolerance": 0.1, "ahead": 6}
  assert saved["planner"]["frameskip"] == 2 and hosts.REPLAY in capsys.readouterr().out
  assert len(list((tmp_path / "planning").glob("episode*.gif"))) == 3


# ---- PushT ----

@pytest.fixture(scope="module")
def pusht():
  library("gym_pusht", "gym-pusht")
  return pusht_gym.make_hosted()


@pytest.fixture(scope="module")
def demonstrations():
  if not (PUSHT / "pusht_demos.npz").exists():
    pytest.skip(f"the PushT demonstrations are not in {PUSHT} (JEPA_PUSHT)")
  return recordings.read(PUSHT, images=False)


def test_pusht_states_are_set_exactly(pusht):
  env, state = pusht.driver.open(), np.float32([100, 120, 300, 250, 4])
  np.testing.assert_array_equal(pusht.driver.start(env, 0, state), state)
  other = env.reset(seed=0, options={"reset_to_state": state})[0]     # gym-pusht's own puts the T elsewhere
  assert np.linalg.norm(other[2:4] - state[2:4]) > 20
  still, _, _ = pusht.driver.step(env, np.float32([100, 120]))
  pusht.driver.start(env, 0, state)
  still, _, _ = pusht.driver.step(env, state[:2])
  np.testing.assert_allclose(still, state, atol=1e-4)                 # at rest, whatever was before


def test_pusht_starts_are_drawn_by_seed_and_clear(pusht):
  env = pusht.driver.open()
  drawn = np.stack([pusht.driver.start(env, seed, ()) for seed in range(40)])
  np.testing.assert_array_equal(pusht.driver.start(env, 7, ()), drawn[7])
  assert drawn[:, 2:4].min() > 7 and drawn[:, 2:4].max() < 504 and np.ptp(drawn, 0).min() > 3
  for state in drawn:                                                 # nothing pushes anything
    pusht.driver.start(env, 0, state)
    np.testing.assert_allclose(pusht.driver.step(env, state[:2])[0], state, atol=0.2)


def test_pusht_success(pusht):
  at = np.float32([100, 100, 200, 200, 0.1])
  near = lambda **d: bool(pusht_gym.success(at + np.float32([d.get(k, 0) for k in ("x", "y", "u", "v", "turn")]), at))
  assert near() and near(x=19.9) and near(v=-19.9) and near(turn=0.34) and near(turn=-0.34)
  assert not near(x=20.1) and not near(u=20.1) and not near(turn=0.36) and not near(turn=-0.36)
  assert near(x=14, u=14) and not near(x=15, u=15)                    # one vector of four
  assert near(turn=2 * np.pi) and near(turn=-2 * np.pi - 0.3) and not near(turn=np.pi)


def test_pusht_is_what_was_recorded(pusht, demonstrations):
  """Frames drawn from states are the recorded ones; recorded actions lead where they led, twice the same."""
  first = pusht_gym.make_hosted(size=96)
  frames = pusht_format.read(PUSHT, "").frames(3)
  begin = int(demonstrations.ends[2])
  env = first.driver.open()
  for t in (0, 40):
    seen = first.driver.start(env, 0, demonstrations.state[begin + t])
    difference = np.abs(first.driver.image(env, seen).astype(int) - frames[t])
    assert difference.mean() < 0.2 and difference.max() < 128

  def replay():
    state = first.driver.start(env, 0, demonstrations.state[begin + 20])
    for a in demonstrations.action[begin + 20:begin + 45]:
      state, _, _ = first.driver.step(env, a)
    return state
  once = replay()
  np.testing.assert_array_equal(once, replay())
  assert np.linalg.norm((once - demonstrations.state[begin + 45])[:4]) < 2
  assert np.linalg.norm((demonstrations.state[begin + 45] - demonstrations.state[begin + 20])[:4]) > 30


def test_pusht_protocol(demonstrations, pusht):
  """Problems are of held-out episodes, none solved at its start; recorded actions solve them, standing still none."""
  world = pusht_gym.make_hosted(path=str(PUSHT), size=32)
  problems, facts = world.problems(0, 6)
  spans = recordings.episodes(demonstrations.ends)
  held_out = spans[trajectories.split(len(spans))["test"]]
  steps = np.concatenate([np.arange(*span) for span in held_out])
  for start, goal, actions in zip(problems.start, problems.goal.state, problems.actions):
    at, = steps[(demonstrations.state[steps] == start).all(1)]
    np.testing.assert_array_equal(actions, demonstrations.action[at:at + 25])
    np.testing.assert_allclose(goal, demonstrations.state[at + 25] % np.float32([999] * 4 + [2 * np.pi]), rtol=1e-5)
  assert facts["left_out_since_solved"] < 0.01 * facts["candidates"] and facts["candidates"] > 4000
  assert problems.goal.image.shape == (6, 32, 32, 3)
  short, much = pusht_gym.make_hosted(path=str(PUSHT), size=8, ahead=3).problems(0, 30)
  assert much["left_out_since_solved"] > 0.3 * much["candidates"]
  assert not pusht_gym.success(short.start, short.goal.state).any()
  floors, ask = hosts.floors(world), protocol(world, 6, 26)
  stay, _, _ = hosts.run(world, floors[hosts.STAY], ask, problems, films=0)
  replay, episode, films = hosts.run(world, floors[hosts.REPLAY], ask, problems, films=1)
  assert stay["successes"] == 0 and replay["successes"] == 6
  straight, at, _ = hosts.run(world, floors[STRAIGHT], ask, problems, films=0)
  assert (np.linalg.norm(at.states[:, -1, :2] - problems.goal.state[:, :2], axis=-1) < 20).all()
  with pytest.raises(ValueError, match="problems of 25 steps"):
    world.problems(0, 10**6)


# ---- trajectories on disk ----

def test_collected_trajectories_are_those_of_the_world(tmp_path):
  args = dict(episodes=3, length=7, seed=5)
  for name in ("a", "b"):
    collect.collect(tmp_path / f"{name}.npz", "two_rooms", {"random": True}, **args)
  found, again = recordings.read(tmp_path / "a.npz"), recordings.read(tmp_path / "b.npz")
  jax.tree.map(np.testing.assert_array_equal, found, again)
  world = worlds.make("two_rooms", random=True)
  make = jax.jit(lambda i: worlds.trajectory(world, 7, 5, i))
  for i in range(3):
    made = make(i)
    np.testing.assert_array_equal(found.image[7 * i:7 * i + 7], made["image"])
    np.testing.assert_allclose(found.action[7 * i:7 * i + 6], made["action"], atol=1e-5)
    np.testing.assert_allclose(found.state[7 * i:7 * i + 7], made["position"], atol=1e-4)
  assert found.ends.tolist() == [7, 14, 21] and not found.action[6::7].any()
  with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
    meta = json.loads(str(file["meta"]))
  assert meta == dict(world="two_rooms", version=world.version, args={"random": True}, seed=5, length=7, episodes=3)
  assert zipfile.ZipFile(tmp_path / "a.npz").getinfo("image.npy").compress_size < found.image.nbytes / 10


def test_an_episode_that_ends_is_followed_by_another(tmp_path, table):
  collect.collect(tmp_path / "dot.npz", DOT, {"size": 8}, episodes=3, length=40)
  found = recordings.read(tmp_path / "dot.npz")
  assert len(found.image) == 120 and found.image.shape[1:] == (8, 8, 3) and {40, 80, 120} < set(found.ends)
  last = found.ends - 1
  assert not found.action[last].any() and found.action[:-1].any(1).sum() == 120 - len(last)
  over = [i for i in last if i + 1 not in (40, 80, 120)]
  assert (found.state[over, 0] == 1).all() and (np.delete(found.state[:, 0], last) < 1).all()
  inside = np.setdiff1d(np.arange(119), last)
  np.testing.assert_allclose(found.state[inside + 1], np.clip(found.state[inside] + 0.1 * found.action[inside], 0, 1),
                             atol=1e-5)


@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_file_that_is_not_complete_does_not_appear(tmp_path, monkeypatch, what):
  def pieces(fails):
    for i in range(3):
      if fails and i == 2:
        raise what
      yield collect.Piece(np.full((2, 4, 4, 1), i, np.uint8), np.ones((2, 1)), np.ones((2, 1)), [2])
  path = tmp_path / "sub" / "x.npz"
  with pytest.raises(type(what)):
    collect.write(path, pieces(True), frames=6, meta={})
  assert not list(path.parent.iterdir())
  collect.write(path, pieces(False), frames=6, meta={})
  before = path.read_bytes()
  with pytest.raises(type(what)):
    collect.write(path, pieces(True), frames=6, meta={})
  assert [p.name for p in path.parent.iterdir()] == ["x.npz"] and path.read_bytes() == before
  monkeypatch.setattr(collect, "collect", lambda *a, **k: (_ for _ in ()).throw(what))
  assert collect.main([f"--path={path}"]) == (130 if isinstance(what, KeyboardInterrupt) else 1)
