"""Planning evaluated: the protocol, its floors, pictures, and the command on a run of a few steps."""
import json
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import command as commands, config, experiment, plan, train, worlds
from jepa.planning import acting, agents
from jepa.planning.protocol import STRAIGHT, TRAINED, Protocol, problem_keys, wilson
from jepa.reports import planning as pictures
from tests import runs


def test_wilson_is_the_published_interval():
  # 20 of 20 and 0 of 20 (Newcombe, 1998), 81 of 263
  assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
  assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
  assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.fixture(scope="module")
def rooms():
  """A world, and a protocol short enough for a test."""
  world = worlds.make("two_rooms")
  return world, Protocol("two_rooms", world.version, {}, 60, 16, 0)


def test_the_true_simulator_beats_a_random_walk(rooms):
  world, protocol = rooms
  energy = agents.of_world(world, horizon=30)
  oracle = agents.planned(world, *energy, name="mppi", horizon=30, every=6, samples=64, iterations=2, std=1.5,
                          temperature=50.0)
  found, episode = acting.run(world, oracle, protocol, chunk=8)
  walk, _ = acting.run(world, agents.random(world), protocol, chunk=8)
  assert found["success"] > walk["success"] + 0.2
  assert found["low"] < found["success"] <= found["high"] and found["episodes"] == 16
  assert episode.live.shape == (16, 60) and episode.done.sum() == found["successes"]


def test_episodes_that_take_turns_are_those_run_whole(rooms, monkeypatch):
  """Whichever share a call or run beside it, and after others have ended; what is left of an ended episode stays as
  it was."""
  world, protocol = rooms
  plan = agents.planned(world, *agents.of_world(world, horizon=6), name="shooting", horizon=6, every=4,
                        samples=8)
  protocol = protocol._replace(episodes=7, budget=22)         # no whole number of looks
  _, many = acting.run(world, plan, protocol, chunk=7)
  monkeypatch.setattr(acting, "processors", lambda: 2)
  _, few = acting.run(world, plan, protocol, chunk=3)
  jax.tree.map(np.testing.assert_array_equal, few, many)
  assert few.live.shape == (7, 22) and few.energies.shape == (7, 6)
  near = world._replace(success=lambda state, goal: jnp.abs(state.position - goal.position).max() < 30)
  found, short = acting.run(near, plan, protocol, chunk=3)
  taken = short.live.sum(1)
  assert 0 < found["successes"] and len(set(taken)) > 2
  for i in np.flatnonzero(short.done):
    n = taken[i]
    np.testing.assert_array_equal(short.states.position[i, :n + 1], few.states.position[i, :n + 1])
    assert (short.states.position[i, n:] == short.states.position[i, n]).all() and not short.live[i, n:].any()
    assert np.isinf(short.energies[i, -(-n // 4):]).all() and np.isfinite(short.energies[i, :-(-n // 4)]).all()


def test_a_failure_beside_others_is_told(rooms, monkeypatch):
  """And the others end with their turn."""
  world, protocol = rooms
  turns, write = [], acting._write

  def broken(record, episodes, *rest):
    turns.append(len(episodes))
    if 1 in episodes and len(turns) > 2:      # the second of two
      raise OSError("no space left")
    write(record, episodes, *rest)

  monkeypatch.setattr(acting, "_write", broken)
  monkeypatch.setattr(acting, "processors", lambda: 2)
  with pytest.raises(OSError, match="no space"):
    acting.run(world, agents.random(world), protocol._replace(budget=100_000), chunk=8)
  assert sum(turns) < 8 * 1000


def test_every_policy_meets_the_same_problems(rooms):
  world, protocol = rooms
  _, a = acting.run(world, agents.random(world), protocol, chunk=8)
  _, b = acting.run(world, agents.straight(world), protocol, chunk=16)
  np.testing.assert_array_equal(a.states.position[:, 0], b.states.position[:, 0])


def test_problems_are_those_that_were_met(rooms):
  """Whatever the chunk, and where the last one is not full."""
  world, protocol = rooms
  protocol = protocol._replace(episodes=5, budget=2)
  start, goal = jax.vmap(world.problem)(problem_keys(protocol))
  _, episode = acting.run(world, agents.straight(world), protocol, chunk=3)
  np.testing.assert_array_equal(episode.states.position[:, 0], start.position)
  # a straight line from each start goes towards the goal of the same row
  np.testing.assert_allclose(episode.actions[:, 0], jax.vmap(world.controller)(start, goal), atol=1e-5)


def test_the_states_that_count():
  np.testing.assert_array_equal(agents.weights(4, 0), [1, 1, 1, 1])
  np.testing.assert_array_equal(agents.weights(4, 1), [0, 0, 0, 1])
  with pytest.raises(ValueError, match="last 1 to 4"):
    agents.weights(4, 5)


def test_pictures(tmp_path):
  rng = np.random.default_rng(0)
  for channels in (1, 2, 3):
    frames = rng.integers(0, 255, (4, 8, 8, channels), dtype=np.uint8)
    pictures.gif(tmp_path / f"{channels}.gif", frames, frames[0])
  pictures.imagined(tmp_path / "imagined.png", {"a": np.arange(1.0, 4.0)})
  from PIL import Image
  with Image.open(tmp_path / "2.gif") as film:
    assert film.n_frames == 4 and film.size == (48, 24)
  for done in (False, True):
    pictures.film(tmp_path, 7, done, np.zeros((3, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
  assert [p.name for p in tmp_path.glob("episode*")] == ["episode7_reached.gif"]


def test_the_command(tmp_path, capsys):
  """python -m jepa.plan on a run of a few steps, with the memory of its checkpoint: rows and pictures; and a world
  that does not fit."""
  c = runs.rooms(memory=24)
  c.data.args.args = dict(random=False)
  assert train.run(c, tmp_path) == 0
  command = [sys.executable, "-m", "jepa.plan", f"--workdir={tmp_path}", "--episodes=3", "--budget=6",
             "--horizon=4", "--every=2"]
  rows = [STRAIGHT, TRAINED]
  sets = ["--set=width=4", "--set=hold=2", "--subgoals=memory", "--landscapes=0",
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
  begun, ended = saved["rows"][TRAINED]["remembered"]
  assert "24 latents of the checkpoint" in done.stderr and begun == 24 < ended
  with flagsaver.flagsaver():
    flags.FLAGS([*command[2:], "--world=maze"])
    code = commands.guarded(plan.main, "")
  assert code == 1 and "choose a world of the same images" in capsys.readouterr().err


def test_settings_on_the_command_line():
  assert config.settings(["samples=64", "std=(1.0, 2.0)", "name=a b"], "set") == {
      "samples": 64, "std": (1.0, 2.0), "name": "a b"}
  with pytest.raises(ValueError, match="--set=samples is not NAME=VALUE"):
    config.settings(["samples"], "set")


def test_a_method_without_a_world_model_is_refused():
  with pytest.raises(ValueError, match="simclr predicts no next state"):
    plan.load_model(experiment.build(runs.config("simclr")))
