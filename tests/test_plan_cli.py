"""What is reachable from python -m jepa.plan beyond one level of planning: parallel states, energies in pieces, a
memory that outlives episodes and is in the checkpoint, sweeps, and its pictures."""
import json

from absl import flags
from absl.testing import flagsaver
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import (checkpoint, command as commands, config as configs, experiment, logs, plan, planning, worlds,
                  wrappers)
from jepa.planning import Limits, acting, agents, imagining, levels, subgoals
from jepa.planning.protocol import Protocol, one_layout
from jepa.reports import planning as pictures
from jepa.types import Features, Method
from tests import runs

KEY = jax.random.key(0)
FAR = lambda a, b: jnp.linalg.norm(a - b)


# ---- planners ----

@pytest.mark.parametrize("name,args", [("cem", dict(elites=2, iterations=1)), ("shooting", {}), ("mppi", {}),
                                       ("icem", dict(elites=2, iterations=1))])
def test_energies_in_pieces_are_those_at_once(name, args):
  energy = lambda context, actions, goal: jnp.square(actions.sum(0) - goal).sum()
  plans = []
  for batch in (0, 5):
    planner = planning.make(name, energy=energy, limits=Limits([-1, -1], [1, 1]), horizon=3, samples=8, batch=batch,
                            **args)
    call = lambda k: planner.plan(k, 0.0, jnp.ones(2), planner.init())
    assert ("f32[5,3,2]" in str(jax.make_jaxpr(call)(KEY))) == (batch == 5)
    plans.append(jax.jit(call)(KEY))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *plans)


def test_each_action_of_a_block_has_the_norm():
  limits = Limits([-2] * 4, [2] * 4, 1.0, blocks=2)
  found = planning.clip(planning.checked(limits, 1)[0], jnp.array([[3.0, 0, 0.3, 0.4], [0, 0, 3, 4]]))
  np.testing.assert_allclose(found, [[1, 0, 0.3, 0.4], [0, 0, 2**-0.5, 2**-0.5]], atol=1e-6)
  with pytest.raises(ValueError, match="4 numbers do not split into 3 blocks"):
    planning.checked(limits._replace(blocks=3), 1)
  with pytest.raises(ValueError, match="blocks is 0"):
    planning.checked(limits._replace(blocks=0), 1)


def test_parallel_states_know_the_layout_of_their_context():
  """A wall of one layout stops a step that is free in the other; and a world that has no such positions."""
  world = worlds.make("two_rooms", random=True)
  start, _ = world.problem(KEY)
  steps = agents.steps_of_world(world)
  for wall, x in ((30.0, 28.99), (40.0, 30.95)):       # 28.5 and 2.45 more
    state = start._replace(position=jnp.array([29.0, 30.0]), wall=jnp.float32(wall), door=jnp.float32(50.0))
    dynamics, distance, first = steps(state)
    np.testing.assert_allclose(jax.jit(dynamics)(first - jnp.array([0.5, 0]), jnp.array([2.45, 0.0])), [x, 30],
                               atol=1e-4)
    assert float(distance(first, first + 2)) == 8
  drifting = lambda drift: (lambda z, a: z + a + drift, lambda a, b: jnp.square(a - b).sum(), jnp.zeros(2))
  moving = agents.by_steps("grasp", drifting, limits=Limits([-1, -1], [1, 1]), horizon=2, starts=1, steps=5,
                           refine=60, refine_rate=0.1)
  found = jax.jit(lambda drift: moving.plan(KEY, drift, jnp.ones(2), moving.init()))(jnp.array([0.5, 0.0]))
  np.testing.assert_allclose(found.actions.sum(0), [0, 1], atol=0.05)
  pusht = worlds.make("pusht")
  with pytest.raises(ValueError, match="pusht: its state is more than a position"):
    agents.placed(pusht, pusht.reset(KEY), jnp.zeros(2))


# ---- the memory ----

def test_a_sparse_memory_covers():
  line = jnp.arange(0, 10, 0.1)[:, None]
  memory = subgoals.spread(wrappers.empty(20, 1), line, FAR, 0.95)
  np.testing.assert_allclose(memory.latents[:int(memory.count), 0], np.arange(10), atol=1e-5)
  again = subgoals.spread(memory, line, FAR, 0.95)
  assert int(again.count) == 10, "nothing new is there"
  small = subgoals.spread(wrappers.empty(4, 1), line, FAR, 0.95)
  assert sorted(np.round(small.latents[:, 0])) == [6, 7, 8, 9], "the oldest are overwritten"


def test_subgoals_lie_ahead_on_the_path():
  angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
  places = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
  memory, hop = wrappers.add(wrappers.empty(30, 2), places), float(FAR(places[0], places[1]))
  ask = lambda ahead, goal: subgoals.remembered(memory, FAR, neighbours=2, longest=0.3, reached=0.01,
                                                ahead=ahead).propose(KEY, places[0], places[goal], ())[0]
  for hops in (0, 1, 3):
    np.testing.assert_allclose(ask((hops + 0.5) * hop, 8), places[max(hops, 1)], atol=1e-6)
  np.testing.assert_allclose(ask(3.5 * hop, 21), places[21], atol=1e-6)      # the other way round, all of it


@pytest.mark.slow
def test_two_levels_find_the_way_through_a_maze():
  """Greedy planning of eight actions is stuck behind walls; with a memory of where training went it is not."""
  args = dict(cells=3, thickness=6.0, apart=3, loops=0, number=0)
  world = worlds.make("maze", **args)
  protocol = Protocol("maze", world.version, args, 160, 8, 0)
  assert one_layout(world, protocol)
  assert not one_layout(worlds.make("two_rooms", random=True), protocol)
  parts, latents = agents.of_world(world, horizon=8), agents.latents_of_world(world)
  level = levels.level(world, parts[1], latents, KEY, kind="memory", horizon=8, every=4, capacity=192,
                       apart=3.0, longest=5.7, trajectories=64)
  search = dict(name="mppi", horizon=8, every=4, samples=48, iterations=2, std=1.5, temperature=5.0)
  agent = lambda memory: agents.planned(world, *parts, proposer=level.propose(memory), **search)
  ask = lambda memory: acting.learning(world, agent, memory, protocol, chunk=8)[0]
  greedy, found = ask(wrappers.empty(192, 2)), ask(level.memory)      # of nothing, the goal itself is proposed
  print(f"greedy {greedy['success']:.2f}, with {int(level.memory.count)} positions {found['success']:.2f}")
  assert greedy["successes"] <= 4 and found["successes"] >= 7


def test_a_memory_grows_from_call_to_call():
  """And what an agent of the second call is made of is what the first left behind."""
  world = worlds.make("two_rooms")
  protocol = Protocol("two_rooms", world.version, {}, 6, 4, 0)
  seen = levels.visited(lambda state: state, agents.latents_of_world(world), 3)
  still = agents.straight(world)

  def agent(memory):      # goes only once something is known
    act = lambda key, state, goal, kept: (jnp.where(memory.count > 0, 1.0, 0.0) * world.controller(state, goal)[None],
                                          jnp.array(0.0), kept)
    return still._replace(policy=still.policy._replace(act=act))

  _, episode, memory = acting.learning(world, agent, wrappers.empty(20, 2), protocol, chunk=2,
                                       remember=lambda memory, episode: wrappers.add(memory, seen(episode)))
  moved = np.abs(np.diff(episode.states.position, axis=1)).max((1, 2))
  assert (moved[:2] == 0).all() and (moved[2:] > 1).all() and int(memory.count) == 4 * 3
  np.testing.assert_allclose(memory.latents[6:12], episode.states.position[2:, ::3].reshape(-1, 2), atol=1e-6)


# ---- in the checkpoint, and the command ----

def test_the_state_remembers_its_last_examples():
  """Through every step, whatever the method makes of `extra`."""
  method = Method(init=lambda key, batch: ({"w": jnp.ones(())}, {"own": jnp.zeros(())}),
                  loss=lambda params, extra, batch, key: (params["w"], ({"own": extra["own"] + 1}, {})),
                  post=lambda params, extra, step: {"own": extra["own"] * 10},
                  embed=lambda params, extra, batch: Features(params["w"] * batch["x"], None))
  method = wrappers.remembering(method, 5)
  batch = lambda i: {"x": jnp.arange(6.0).reshape(3, 2) + 10 * i}
  params, extra = method.init(KEY, batch(0))
  for i in range(1, 4):
    (_, (extra, _)), slope = jax.value_and_grad(method.loss, has_aux=True)(params, extra, batch(i), KEY)
    extra, params = method.post(params, extra, i), {"w": params["w"] * 2}
    assert slope["w"] == 1, "a memory is not trained"
  assert float(extra["own"]) == 1110 and int(extra["memory"].count) == 9
  np.testing.assert_allclose(extra["memory"].latents[np.arange(6, 9) % 5], 4 * batch(3)["x"])
  np.testing.assert_allclose(extra["memory"].latents[4], 2 * batch(2)["x"][1])
  with pytest.raises(ValueError, match="config.memory = 8 holds less than the 16 examples"):
    experiment.build(runs.config("two_rooms", memory=8))


def test_a_memory_is_kept_for_its_checkpoint_alone(tmp_path, capsys):
  memory = wrappers.add(wrappers.empty(4, 2), jnp.ones((3, 2)))
  about = {"world": "maze", "args": {"number": 1}, "step": 4}
  assert plan._known(tmp_path / "memory", about, {}) is None
  of_run = {"memory": wrappers.add(wrappers.empty(9, 2), jnp.zeros((2, 2)))}
  assert plan._known(tmp_path / "memory", about, of_run).shape == (2, 2)
  checkpoint.write_tree(tmp_path / "memory", memory._asdict(), about)
  np.testing.assert_array_equal(plan._known(tmp_path / "memory", about, of_run), np.ones((3, 2)))
  assert plan._known(tmp_path / "memory", about | {"step": 5}, of_run).shape == (2, 2)
  assert "is of another step or world" in capsys.readouterr().err


def test_sweeps(tmp_path, monkeypatch):
  """Every combination, with what it was; what is finished is on disk when the next one fails."""
  assert plan.grid(["std=(1,2),(3,4)"]) == [{"std": (1, 2)}, {"std": (3, 4)}]
  assert plan.grid(["every=5"]) == [{"every": 5}]
  with pytest.raises(ValueError, match="--sweep=every is given twice"):
    plan.grid(["every=1", "every=2"])
  asked = []

  def act(world, model, state, protocol, search, two, title, known=None):
    asked.append(search)
    if len(asked) == 4:
      raise KeyboardInterrupt
    return dict(success=0.5, low=0.2, high=0.8, seconds_per_episode=len(asked), steps_to_success=None), None, None

  monkeypatch.setattr(plan, "_act", act)
  with flagsaver.flagsaver(), pytest.raises(KeyboardInterrupt):
    flags.FLAGS(["jepa.plan", f"--workdir={tmp_path}", "--sweep=samples=8,4", "--sweep=name=mppi,cem"])
    plan._sweep(None, None, None, None, dict(name="mppi", every=2), {}, tmp_path, {})
  assert asked[3] == dict(name="cem", every=2, samples=4)
  points = json.loads((tmp_path / "sweep.json").read_text())["points"]
  assert [tuple(p["settings"].values()) for p in points] == [(8, "mppi"), (8, "cem"), (4, "mppi")]
  assert (tmp_path / "sweep.png").stat().st_size > 5000


def test_flags_win_over_the_plan_of_the_config():
  c = runs.config("lewm_two_rooms")
  c.plan.update(planner="icem", horizon=9, args=dict(samples=8, elites=2))
  exp = experiment.build(c)

  def found(*given):
    with flagsaver.flagsaver():
      flags.FLAGS(["jepa.plan", "--workdir=none", *given])
      return plan.search_of(exp.config)

  assert found() == dict(name="icem", horizon=9, every=10, last=0, samples=8, elites=2)
  assert found("--set=samples=4", "--every=3") == dict(name="icem", horizon=9, every=3, last=0, samples=4, elites=2)
  assert found("--planner=mppi", "--last=2") == dict(name="mppi", horizon=9, every=10, last=2)
  older = exp._replace(config={k: v for k, v in exp.config.items() if k != "plan"})
  exp = older
  assert found() == dict(name="mppi", horizon=50, every=10, last=0)


def test_what_does_not_exist_is_refused_before_anything_is_built(tmp_path, monkeypatch, capsys):
  logs.write_json(tmp_path / "config.json", configs.plain(runs.rooms()))
  monkeypatch.setattr(experiment, "build", lambda c: pytest.fail("built"))
  for flag, words in (("planner=mpi", "there is no jepa.planning.mpi; did you mean 'mppi'? Known: cem, "),
                      ("planner=control", "jepa.planning.control has no make"),
                      ("planner=no.such", "there is no no.such"),
                      ("world=two_room", "there is no jepa.worlds.two_room; did you mean 'two_rooms'?")):
    with flagsaver.flagsaver():
      flags.FLAGS(["jepa.plan", f"--workdir={tmp_path}", f"--{flag}"])
      code = commands.guarded(plan.main, "")
    told = capsys.readouterr().err.strip()
    assert code == 1 and words in told and "\n" not in told


def test_a_world_and_a_planner_of_another_repository(tmp_path, monkeypatch, capsys):
  """Both by dotted names: the world that a run was trained in, another, and a planner with its arguments."""
  away = tmp_path / "yonder"
  away.mkdir()
  for name, text in {
      "__init__": "",
      "room": ("from jepa.worlds import two_rooms\n"
               "def make(*, door: int = 20):\n  return two_rooms.make(door=door)._replace(version=7)\n"),
      "hold": ("import jax.numpy as jnp\n"
               "from jepa.planning import Planner, fresh\n"
               "def make(*, energy, limits, horizon: int, by: float = 0.0):\n"
               "  start = fresh(limits, horizon, 0.0)\n"
               "  held = start._replace(actions=jnp.full_like(start.actions, by))\n"
               "  return Planner(horizon, lambda: start, lambda *_: held, lambda *_: start)\n")}.items():
    (away / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  c = runs.rooms()
  c.data.args.name, c.data.args.args = "yonder.room", dict(door=21)
  logs.write_json(tmp_path / "config.json", configs.plain(c))
  exp = experiment.build(c)
  assert "yonder.room" not in exp.train.describe and "version 7" in exp.train.describe
  with checkpoint.open(tmp_path / "checkpoints") as saver:
    checkpoint.save(saver, experiment.initial_state(exp), data={}, config={})
  for given, world, args in (((), "yonder.room", {"door": 21}),
                             (("--world=yonder.room", "--world_set=door=40"), "yonder.room", {"door": 40})):
    with flagsaver.flagsaver():
      flags.FLAGS(["jepa.plan", f"--workdir={tmp_path}", "--episodes=2", "--budget=4", "--horizon=3",
                   "--every=2", "--planner=yonder.hold", "--set=by=0.5", "--landscapes=0",
                   "--rows=trained model", *given])
      plan.main()
    saved = json.loads((tmp_path / "planning" / "results.json").read_text())
    assert (saved["protocol"]["world"], saved["protocol"]["world_args"]) == (world, args)
    assert saved["planner"]["name"] == "yonder.hold" and list(saved["rows"]) == ["trained model"]
  assert "yonder.room version 7 {'door': 40}: 2 episodes" in capsys.readouterr().out


def test_a_probe_reads_positions():
  rng = np.random.default_rng(0)
  y = rng.normal(size=(20, 5, 2))
  z = np.concatenate([y @ rng.normal(size=(2, 3)), rng.normal(size=(20, 5, 4))], -1)
  read, share = imagining.probe(z, y)
  assert share > 0.99 and np.abs(read(z) - y).max() < 0.1
  assert imagining.probe(rng.normal(size=z.shape), y)[1] < 0.2


def test_landscapes(tmp_path):
  """The distance is least at the goal, the energy of a held action towards it; both are drawn."""
  world = worlds.make("two_rooms")
  start = world.problem(KEY)[0]._replace(position=jnp.array([16.0, 40.0]))
  goal = start._replace(position=jnp.array([8.0, 48.0]))
  starts, goals = (jax.tree.map(lambda x: x[None], s) for s in (start, goal))
  energy, observe, aim = agents.of_world(world, horizon=4)
  heat, held = jax.jit(lambda: (
      imagining.landscape(world, observe, aim, agents.latents_of_world(world), starts, goals, side=9),
      imagining.held(world, energy, observe, aim, starts, goals, horizon=4, side=9)))()
  assert heat.shape == held.shape == (1, 9, 9)
  assert np.unravel_index(heat[0].argmin(), (9, 9)) == (6, 1) and heat[0, 6, 1] == 0      # row y = 48, column x = 8
  row, column = np.unravel_index(np.nanargmin(held[0]), (9, 9))
  assert row > 4 > column and np.isnan(held[0, 0, 0]) and np.isfinite(held[0, 4, 4])
  marks = start.position, goals.position[0], world.actions.low, world.actions.high
  held = {"a": np.asarray(held[0])}
  pictures.landscape(tmp_path / "l.png", np.asarray(world.render(start)), {"a": heat[0]}, held, *marks)
  pictures.landscape(tmp_path / "without.png", np.zeros((8, 8, 3), np.uint8), {}, held, *marks)
  assert (tmp_path / "l.png").stat().st_size > 5000 and (tmp_path / "without.png").stat().st_size > 5000
