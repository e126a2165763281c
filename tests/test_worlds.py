"""One contract for every world, and what is true of each: no wall is ever crossed, mazes hang together, the T
moves as a pushed block does."""
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import worlds
from jepa.worlds import dots, maze, pusht, two_rooms
from tests import runs

CASES = {name: {} for name in worlds.names()} | {"two_rooms": dict(random=True)}
KEYS, STEPS = 64, 40


def _episode(world):
  """key -> everything that a world gives."""
  def episode(key):
    k_reset, k_behave, k_problem = jax.random.split(key, 3)
    start = world.reset(k_reset)
    actions = world.behave(k_behave, start, STEPS)
    states = worlds.rollout(world, start, actions)
    some = jax.tree.map(lambda x: x[::10], states)
    first, goal = world.problem(k_problem)
    return dict(actions=actions, states=states, position=jax.vmap(world.position)(states),
                image=jax.vmap(world.render)(some), start=first, goal=goal,
                at_start=world.success(first, goal), at_goal=world.success(goal, goal),
                action=world.controller(first, goal))
  return episode


@functools.cache
def _made(case):
  return worlds.make(case, **CASES[case])


@functools.cache
def _run(case):
  return jax.device_get(jax.jit(jax.vmap(_episode(_made(case))))(jax.random.split(jax.random.key(0), KEYS)))


@pytest.fixture(params=CASES)
def case(request):
  return request.param


@pytest.fixture
def world(case):
  return _made(case)


@pytest.fixture
def run(case):
  return _run(case)


def test_shapes_and_types(world, run):
  a, p = world.actions.low.shape[0], run["position"].shape[-1]
  assert world.version >= 1 and world.budget > 0 and world.actions.high.shape == (a,)
  assert run["actions"].shape == (KEYS, STEPS, a) and run["action"].shape == (KEYS, a)
  assert run["position"].shape == (KEYS, STEPS + 1, p)
  assert run["image"].shape == (KEYS, STEPS // 10 + 1, *world.image)
  assert (run["image"].dtype, run["position"].dtype, run["actions"].dtype, run["at_goal"].dtype) == (
      np.uint8, np.float32, np.float32, bool)
  for leaf in jax.tree.leaves(run):
    assert np.isfinite(leaf).all()
  for leaf in jax.tree.leaves((run["start"], run["goal"])):
    assert leaf.shape[0] == KEYS
  states = jax.eval_shape(world.reset, jax.random.key(0))
  assert jax.eval_shape(world.step, states, run["action"][0]) == states       # a scan can carry it


def test_the_same_key_gives_the_same_episode(case, run):
  world = worlds.make(case, **CASES[case])
  again = jax.jit(jax.vmap(_episode(world)))(jax.random.split(jax.random.key(0), KEYS))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), run)
  first = run["position"][:, 0]
  assert len({row.tobytes() for row in first}) == KEYS, "episodes share their start"


def test_many_at_once_are_each_alone(world, run):
  """To a rounding; at a contact of the T a rounding may decide which way it turns, as few episodes show."""
  one = jax.jit(_episode(world))
  alone = [jax.device_get(one(key)) for key in jax.random.split(jax.random.key(0), KEYS)]
  alone = jax.tree.map(lambda *x: np.stack(x), *alone)
  assert abs(alone["image"][:, 0].astype(int) - run["image"][:, 0]).max() <= 1
  np.testing.assert_allclose(alone["position"][:, :3], run["position"][:, :3], atol=2e-3)
  same = np.ones(KEYS, bool)
  for a, b in zip(jax.tree.leaves((alone["position"], alone["actions"], alone["goal"])),
                  jax.tree.leaves((run["position"], run["actions"], run["goal"]))):
    same &= (abs(a.astype(np.float32) - b) < 0.02).reshape(KEYS, -1).all(1)
  assert same.mean() >= (0.9 if world.name == "pusht" else 1.0), same


def test_rollout_is_step_after_step(world, run):
  step, state = jax.jit(world.step), jax.tree.map(lambda x: x[0, 0], run["states"])
  for t in range(5):
    state = step(state, run["actions"][0, t])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0, t + 1], atol=2e-3), state, run["states"])


def test_pictures_show_what_moved(run):
  moved = abs(run["position"][:, 10::10] - run["position"][:, :-10:10])[..., :2].max(-1) > 0.5
  assert moved.mean() > 0.5
  differs = (run["image"][:, 1:] != run["image"][:, :-1]).any((2, 3, 4))
  assert differs[moved].all()
  still = (run["position"][:, 10::10] == run["position"][:, :-10:10]).all(-1)
  assert not differs[still].any()


def test_problems_are_solved_at_their_goal_only(world, run):
  assert run["at_goal"].all() and run["at_start"].mean() <= 0.05
  move = lambda s, by: s._replace(**{s._fields[0]: s[0] + by})
  success = jax.jit(world.success)
  one = lambda tree: jax.tree.map(lambda x: x[0], tree)
  assert not success(move(one(run["goal"]), 100.0), one(run["goal"]))
  assert success(move(one(run["goal"]), 1.0), one(run["goal"]))


def test_start_and_goal_share_a_layout(run):
  for field in ("wall", "door", "right", "down"):
    if hasattr(run["start"], field):
      np.testing.assert_array_equal(getattr(run["start"], field), getattr(run["goal"], field))


def test_actions_are_allowed_and_steps_clip_them(world, run):
  for actions in (run["actions"], run["action"]):
    assert (actions >= world.actions.low).all() and (actions <= world.actions.high).all()
    if world.actions.norm:
      assert np.linalg.norm(actions, axis=-1).max() <= world.actions.norm * (1 + 1e-6)
  state = jax.tree.map(lambda x: x[0, 0], run["states"])
  step = jax.jit(world.step)
  for wild in ((1e6, 3e5), (-1e4, 0), (7.0, -1e5)):
    wild = np.resize(np.float32(wild), world.actions.low.shape)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), step(state, wild),
                 step(state, worlds.clip(world.actions, wild)))


def test_training_actions_and_the_controller_are_not_all_alike(run):
  assert len(np.unique(run["actions"].reshape(-1, run["actions"].shape[-1]), axis=0)) > KEYS * STEPS // 2
  assert len(np.unique(run["action"], axis=0)) > KEYS // 4


def test_clip_keeps_directions():
  actions = worlds.Actions(np.float32([-2, -2]), np.float32([2, 2]), 1.5)
  a = np.float32([[0, 0], [1, 1], [3, 0], [3, 4], [-1, 0.2]])
  got = np.asarray(worlds.clip(actions, a))
  np.testing.assert_allclose(got, [[0, 0], [1, 1], [1.5, 0], [1.5 * 0.5**0.5] * 2, [-1, 0.2]], rtol=1e-6)
  assert np.array_equal(got[[0, 1, 4]], a[[0, 1, 4]])             # what is allowed is not touched
  gradient = jax.grad(lambda a: worlds.clip(actions, a).sum())(jnp.zeros(2))
  np.testing.assert_array_equal(gradient, [1, 1])
  np.testing.assert_array_equal(worlds.clip(actions._replace(norm=0.0), a[3]), [2, 2])


@pytest.mark.parametrize("name,args,words", [
    ("two_room", {}, ("there is no jepa.worlds.two_room", "did you mean 'two_rooms'?",
                      f"Known: {', '.join(worlds.names())};")),
    ("dots", {}, ("jepa.worlds.dots has no make", "Known: ")),
    ("pusht_gmy", {}, ("no jepa.worlds.pusht_gmy", "did you mean 'pusht'?")),
    ("two_rooms", dict(dor=3), ("two_rooms.dor is not an option", "did you mean 'door'?", "half_door")),
    ("gymnasium", {}, ("gymnasium.id is missing",)),
    ("two_rooms", dict(door=60), ("door = 60", "10 .. 54")),
    ("two_rooms", dict(gain=0.0), ("gain = 0", "positive")),
    ("maze", dict(loops=17), ("loops = 17", "16 walls to open")),
    ("maze", dict(apart=9), ("apart = 9", "8 moves apart")),
    ("maze", dict(cells=30), ("cells = 30", "a third of a cell")),
    ("pusht", dict(ahed=3), ("did you mean 'ahead'?",)),
    ("pusht", dict(ahead=0), ("ahead = 0", "at least 1 step"))])
def test_errors_say_what_to_do(name, args, words):
  with pytest.raises(ValueError) as error:
    worlds.make(name, **args)
  for word in words:
    assert word in str(error.value)


def test_worlds_are_found_by_path_and_not_imported_before():
  assert {"maze", "pusht", "two_rooms", "wall"} <= set(worlds.names())
  assert {"gymnasium", "pusht_gym"} <= set(worlds.names("make_hosted"))
  assert worlds.hosted("pusht_gym") and worlds.hosted("gymnasium:a:B-v0") and not worlds.hosted("maze")
  listed = "import sys, jepa.worlds; print(*sorted(m for m in sys.modules if m.startswith('jepa.worlds.')))"
  done = subprocess.run([sys.executable, "-c", listed], cwd=runs.ROOT, capture_output=True, text=True,
                        timeout=120)
  assert done.stdout.split() == ["jepa.worlds.host", "jepa.worlds.world"], done.stderr


def test_a_world_of_another_repository(tmp_path, monkeypatch):
  """By its dotted name, native or on the host; what has neither function is refused."""
  (tmp_path / "away").mkdir()
  for name, text in {
      "__init__": "", "empty": "",
      "narrow": ("from jepa.worlds import two_rooms\n"
                 "def make(*, door: int = 9):\n  return two_rooms.make(door=door)._replace(name='narrow')\n"),
      "robot": ("from jepa.worlds.host import HostWorld\n"
                "def make_hosted(id: str, *, arms: int = 1):\n"
                "  return HostWorld(id, arms, None, (1, 1, 3), None, None, None, 9, ('', ''))\n")}.items():
    (tmp_path / "away" / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  world = worlds.make("away.narrow", door=30)
  assert (world.name, float(world.reset(jax.random.key(0)).door)) == ("narrow", 30)
  assert not worlds.hosted("away.narrow")
  robot = worlds.make("away.robot:two.arms", arms=2)
  assert (robot.name, robot.version) == ("two.arms", 2) and worlds.hosted("away.robot:two.arms")
  for name, args, words in (("away.narow", {}, "there is no away.narow. Known: "),
                            ("away.empty", {}, "away.empty has no make. Known: "),
                            ("away.narrow", dict(dor=3), "narrow.dor is not an option; did you mean 'door'")):
    with pytest.raises(ValueError, match=words):
      worlds.make(name, **args)


# Dots and walls.


def crossed(a, b, low, high, block=4096):
  """bool [M]: whether segments a -> b [M 2] touch any of the boxes [K 2] or [M K 2], by separating axes."""
  out = []
  for i in range(0, len(a), block):
    p, q = (x[i:i + block, None].astype(np.float64) for x in (a, b))
    lo, hi = (x[i:i + block] if x.ndim == 3 else x for x in (low, high))
    apart = ((np.maximum(p, q) < lo) | (np.minimum(p, q) > hi)).any(-1)
    normal = np.stack([-(q - p)[..., 1], (q - p)[..., 0]], -1)
    middle = ((lo + hi) / 2 - p) * normal
    apart |= abs(middle.sum(-1)) > ((hi - lo) / 2 * abs(normal)).sum(-1)
    out.append((~apart).any(1))
  return np.concatenate(out)


def wild_walks(world, *, walks, steps, seed=1):
  """States [walks steps+1 ...] under actions of any length, most of them far over the limit; half of the
  walks keep their direction for long, so that they slide into corners."""
  def walk(key):
    k_reset, k_angle, k_turn, k_length, k_kind = jax.random.split(key, 5)
    fresh = jax.random.uniform(k_angle, (steps,), maxval=2 * jnp.pi)
    held = fresh[0] + jnp.cumsum(0.3 * jax.random.normal(k_turn, (steps,)))
    angle = jnp.where(jax.random.bernoulli(k_kind), fresh, held)
    # along the axes as often as not: then a dot moves along a wall, or straight at it
    right = jnp.round(angle / (jnp.pi / 2)) * jnp.pi / 2
    angle = jnp.where(jax.random.bernoulli(k_turn, 0.3, (steps,)), right, angle)
    length = 10 ** jax.random.uniform(k_length, (steps,), minval=-1.5, maxval=2)
    actions = length[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return worlds.rollout(world, world.reset(k_reset), actions)
  return jax.device_get(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(seed), walks)))


def rooms(wall, door, half_wall, half_door):
  """The walls of Two Rooms as published, to the last pixel: low and high [M 6 2]."""
  far, zero = np.full_like(wall, 1e4), np.zeros_like(wall)
  low = [(wall - half_wall, -far), (wall - half_wall, door + half_door), (-far, -far), (zero + 60, -far),
         (-far, -far), (-far, zero + 60)]
  high = [(wall + half_wall, door - half_door), (wall + half_wall, far), (zero + 4, far), (far, far),
          (far, zero + 4), (far, far)]
  return (np.stack([np.stack(row, -1) for row in rows], 1).astype(np.float64) for rows in (low, high))


@pytest.mark.parametrize("args", [dict(random=True), dict(half_wall=3, gain=2.0),
                                  dict(random=True, limit=80.0)], ids=str)
def test_no_walk_crosses_a_wall(args):
  world = worlds.make("two_rooms", **args)
  states = wild_walks(world, walks=128, steps=400)
  half_wall = args.get("half_wall", 1)
  p = states.position
  a, b = p[:, :-1].reshape(-1, 2), p[:, 1:].reshape(-1, 2)
  wall, door = (x[:, :-1].ravel() for x in (states.wall, states.door))
  low, high = rooms(wall, door, half_wall, 4)
  assert not crossed(a, b, low, high).any()
  assert p.min() >= 4 + 0.009 and p.max() <= 60 - 0.009
  # and the walks are such that a misplaced wall is noticed: each of the six, by one pixel
  for k in range(6):
    axis = 1 if k in (4, 5) else 0
    for face, by in ((low, -1), (high, 1)):
      moved = face.copy()
      moved[:, k, axis] += by
      changed = crossed(a, b, *((moved, high) if face is low else (low, moved)))
      assert changed.any() == (abs(face[0, k, axis]) < 1e3), (k, by)
  for k, side in ((0, high), (1, low)):             # the edges of the door
    moved = side.copy()
    moved[:, k, 1] += 1 if k == 0 else -1
    assert crossed(a, b, *((low, moved) if k == 0 else (moved, high))).any(), k
  side = p[..., 0] > states.wall
  assert (side.any(1) & ~side.all(1)).mean() > 0.1, "nobody went through the door: the test shows little"


def test_a_blocked_move_ends_where_it_meets_the_wall():
  world = worlds.make("two_rooms")
  step = jax.jit(world.step)
  at = lambda x, y: two_rooms.State(jnp.float32([x, y]), jnp.float32(32), jnp.float32(18))
  go = lambda x, y, *by: np.asarray(step(at(x, y), jnp.float32(by)).position)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4)
  close(go(30, 40, 2, 1), [30.99, 40.495])                  # half way, and it does not slide
  close(go(30, 40, -2, 1), [28, 41])
  close(go(30.5, 18, 2, 0), [32.5, 18])                     # into the door
  close(go(32, 20, 0, 2.4), [32, 21.99])                    # its edge
  close(go(32, 16, 0.6, -2.4), [32 + 0.6 * 1.99 / 2.4, 14.01])
  close(go(5, 5, -1.2, -2), [4.406, 4.01])
  close(go(59, 59, 2, 1), [59.99, 59.495])
  rest = np.asarray(go(30, 40, 2, 0))
  for by in ((2, 0), (2, 2.0), (0.001, -1)):                # resting on the wall, into it: nothing moves
    assert np.array_equal(go(*rest, *by), rest)
  close(go(*rest, 0, 2), rest + [0, 2])                     # along it and away from it: free
  close(go(*rest, -1, 1), rest + [-1, 1])


def test_moving_among_boxes_survives_ties_and_zeros():
  """Moves along surfaces, moves that meet two boxes at once, and steps of zero on an axis."""
  boxes = dots.Boxes(jnp.float32([[0, 0], [10.1, -5], [3.3, 10.7]]),
                     jnp.float32([[10.1, 10.7], [12, 20], [4.7, 20.3]]))
  low, high = (np.asarray(x, np.float64) for x in boxes)
  move = jax.jit(jax.vmap(lambda p, d: dots.move(p, d, boxes)))
  within = lambda p: ((boxes.low < p[:, None]) & (p[:, None] < boxes.high)).all(-1).any(1)
  rng = np.random.default_rng(0)
  lines = [np.concatenate([np.arange(-6, 22), *(np.float32(x)[:, i] for x in boxes)]) for i in (0, 1)]
  p = np.stack([rng.choice(x, 40000) for x in lines], -1).astype(np.float32)
  p[::2] += rng.uniform(-1, 1, p[::2].shape)
  p = p[~np.asarray(within(p))]
  d = (rng.integers(-12, 13, size=p.shape) * rng.choice([1, 1 / 3, 1 / 7], (len(p), 1))).astype(np.float32)
  joints = np.float32([(10.1, 0), (10.1, 10.7), (3.3, 10.7), (4.7, 10.7)])
  third = slice(None, None, 3)
  count = len(p[third])
  d[third] = (joints[rng.integers(4, size=count)] - p[third]) * rng.choice([1, 1.5, 3], (count, 1))
  end = np.asarray(move(p, d))
  assert np.isfinite(end).all() and not within(end).any()
  assert not crossed(p, end, low + 1e-4, high - 1e-4).any()
  free = ~crossed(p, p + d, low, high)
  assert 0.1 < free.mean() < 0.9
  np.testing.assert_allclose(end[free], (p + d)[free], atol=1e-5)
  # what is not free stops at a surface, but where rounding at a joint keeps it; from there it can go back
  met = crossed(p, p + d, low + 1e-3, high - 1e-3)
  at_surface = crossed(end, end, low - 1e-4, high + 1e-4)
  assert at_surface[met].mean() > 0.9 and at_surface[met & (np.arange(len(p)) % 3 > 0)].mean() > 0.9999
  back = np.asarray(move(end, p - end))
  assert (abs(back - p) < 1e-4).all(1).mean() > 0.999
  np.testing.assert_array_equal(move(p, 0 * p), p)


def test_pictures_of_two_rooms_are_as_published():
  world = worlds.make("two_rooms")
  state = two_rooms.State(jnp.float32([20.25, 41.5]), jnp.float32(32), jnp.float32(18))
  image = np.asarray(jax.jit(world.render)(state))
  y, x = np.mgrid[:65, :65]
  spot = np.floor(255 * np.exp(-((x - 20.25) ** 2 + (y - 41.5) ** 2) / (2 * 1.3**2)))
  assert abs(image[..., 0] - spot).max() <= 1
  walls = (abs(x - 32) <= 1) & ((y < 14) | (y > 22)) | np.isin(x, (4, 60)) | np.isin(y, (4, 60))
  np.testing.assert_array_equal(image[..., 1], 255 * walls)
  red = np.asarray(jax.jit(_made("wall").render)(state._replace(position=jnp.float32([20, 40]))))
  assert red[40, 20].tolist() == [255, 0, 0] and red[50, 50].tolist() == [255] * 3
  assert red[50, 35].tolist() == [0] * 3 and red[50, 36].tolist() == [255] * 3


def test_training_walks_have_the_published_statistics():
  """Channels and positions of the released normaliser: means (0.0026, 0.0989) and (31.586, 32.062),
  deviations (0.0369, 0.2986) and (16.103, 16.135)."""
  world = worlds.make("two_rooms", random=True)
  def walk(key):
    k_reset, k_behave = jax.random.split(key)
    start = world.reset(k_reset)
    actions = world.behave(k_behave, start, 90)
    states = worlds.rollout(world, start, actions)
    return actions, states, jax.vmap(world.render)(jax.tree.map(lambda x: x[::45], states))
  actions, states, image = jax.device_get(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(5), 400)))
  x = image / 255
  np.testing.assert_allclose(x.mean((0, 1, 2, 3)), [0.0026, 0.0989], atol=4e-4)
  np.testing.assert_allclose(x.std((0, 1, 2, 3)), [0.0369, 0.2986], atol=3e-3)
  p = states.position.reshape(-1, 2)
  np.testing.assert_allclose(p.mean(0), [31.586, 32.062], atol=3)
  np.testing.assert_allclose(p.std(0), [16.103, 16.135], atol=1.5)
  length = np.linalg.norm(actions, axis=-1)
  assert 0.2 - 1e-5 <= length.min() < 0.25 and 1.75 < length.max() <= 1.8 + 1e-5
  assert abs(length.mean() - 1) < 0.01
  side = states.position[..., 0] > states.wall
  assert 0.3 < (side[:, 0] != side[:, -1]).mean() < 0.48          # 35 % are led, some stray through
  quiet = jax.device_get(jax.jit(jax.vmap(lambda k: dots.turns(k, (1000,))))(
      jax.random.split(jax.random.key(6), 20))).ravel()
  np.testing.assert_allclose(np.cos(quiet).mean(), 0.89338, atol=3e-3)     # I1(5) / I0(5)
  assert abs(quiet.mean()) < 0.02


def test_crossing_is_led():
  world = worlds.make("two_rooms", random=True, crossing=1.0)
  def walk(key):
    k_reset, k_behave = jax.random.split(key)
    start = world.reset(k_reset)
    states = worlds.rollout(world, start, world.behave(k_behave, start, 90))
    return states.position[:, 0] > states.wall
  side = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(7), 200)))
  assert (side != side[:, :1]).any(1).mean() > 0.95


def test_aimed_walks_straight_and_presses_against_the_wall():
  """Who aims at the other room is held by the wall, still on its side; who wanders hardly ever."""
  def held(aimed):
    world = worlds.make("two_rooms", random=True, crossing=0.0, aimed=aimed)
    def walk(key):
      k_reset, k_behave = jax.random.split(key)
      start = world.reset(k_reset)
      states = worlds.rollout(world, start, world.behave(k_behave, start, 40))
      away = jnp.abs(states.position[:, 0] - states.wall)
      return jnp.where(start.position[0] < start.wall, 1, -1) * (states.wall - states.position[:, 0]), away < 2.1
    side, near = jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(7), 200))
    return np.asarray((side[:, -1] > 0) & near[:, -1]).mean()
  assert held(1.0) > 0.6 and held(0.0) < 0.2


def test_jambs_are_met_and_fast_steps_reach_the_limit():
  """Where those that aim are stopped: mostly within two deviations of the door; and how long steps are."""
  def walk(key, **shares):
    world = worlds.make("two_rooms", random=True, crossing=0.0, aimed=1.0, **shares)
    k_reset, k_behave = jax.random.split(key)
    start = world.reset(k_reset)
    actions = world.behave(k_behave, start, 60)
    last = jax.tree.map(lambda x: x[-1], worlds.rollout(world, start, actions))
    return (jnp.abs(last.position[0] - last.wall) < 2.1, jnp.abs(last.position[1] - last.door),
            jnp.linalg.norm(actions, axis=-1).mean())
  keys = jax.random.split(jax.random.key(7), 300)
  near = {}
  for jambs in (0.0, 1.0):
    held, away, length = jax.device_get(jax.jit(jax.vmap(lambda k: walk(k, jambs=jambs)))(keys))
    near[jambs] = (away[held] < 12).mean()
    assert held.sum() > 80 and 0.9 < length.mean() < 1.1
  assert near[1.0] > 0.75 and near[0.0] < 0.5, near
  length = jax.jit(jax.vmap(lambda k: walk(k, fast=0.5)[2]))(keys)
  assert 0.35 < (length > 1.12).mean() < 0.6, "half of them have a mean of 1.22, the others of 1"


@pytest.mark.parametrize("shares", [dict(aimed=-0.1), dict(aimed=0.7), dict(crossing=1.0, aimed=0.1),
                                    dict(jambs=1.1), dict(fast=-1)])
def test_shares_are_checked(shares):
  with pytest.raises(ValueError, match="aimed = "):
    worlds.make("two_rooms", **shares)


def test_layouts_cover_their_range():
  states = jax.jit(jax.vmap(_made("two_rooms").reset))(jax.random.split(jax.random.key(8), 3000))
  assert set(np.unique(states.wall)) == set(range(20, 45))
  assert set(np.unique(states.door)) == set(range(10, 55))


def test_problems_of_two_rooms_are_in_opposite_rooms():
  for args in ({}, dict(random=True)):
    world = worlds.make("two_rooms", **args)
    start, goal = jax.device_get(jax.jit(jax.vmap(world.problem))(jax.random.split(jax.random.key(9), 500)))
    sides = np.sign(start.position[:, 0] - start.wall), np.sign(goal.position[:, 0] - goal.wall)
    assert (sides[0] == -sides[1]).all() and 0.4 < (sides[0] > 0).mean() < 0.6
    for s in (start, goal):
      assert (abs(s.position[:, 0] - s.wall) >= 3.6 - 1e-4).all()
      assert s.position.min() >= 6.6 - 1e-4 and s.position.max() <= 57.4 + 1e-4


# Mazes.


def hedges(right, down, line, half):
  """Walls of a maze as boxes: low and high [K 2], the border and every post among them."""
  n, boxes = len(line) - 1, [(-1e4, -1e4, line[0] + half, 1e4), (line[-1] - half, -1e4, 1e4, 1e4),
                             (-1e4, -1e4, 1e4, line[0] + half), (-1e4, line[-1] - half, 1e4, 1e4)]
  for r in range(n):
    for c in range(n):
      x, y = line[c + 1], line[r + 1]
      boxes.append((x - half, y - half, x + half, y + half))
      if c < n - 1 and not right[r, c]:
        boxes.append((x - half, line[r], x + half, y))
      if r < n - 1 and not down[r, c]:
        boxes.append((line[c], y - half, x, y + half))
  return np.array(boxes)[:, :2], np.array(boxes)[:, 2:]


def reach(right, down):
  """Moves between all cells by breadth-first search, [N*N N*N]; -1 where there is no way."""
  n = len(right)
  moves = np.full((n * n, n * n), -1)
  for source in range(n * n):
    moves[source, source], queue = 0, [source]
    for cell in queue:
      r, c = divmod(cell, n)
      ways = [(r, c + 1, c < n - 1 and right[r, min(c, n - 2)]), (r, c - 1, c > 0 and right[r, c - 1]),
              (r + 1, c, r < n - 1 and down[min(r, n - 2), c]), (r - 1, c, r > 0 and down[r - 1, c])]
      for rr, cc, there in ways:
        if there and moves[source, rr * n + cc] < 0:
          moves[source, rr * n + cc] = moves[source, cell] + 1
          queue.append(rr * n + cc)
  return moves


@pytest.mark.parametrize("args", [dict(), dict(cells=8, loops=0, limit=30.0)], ids=str)
def test_no_walk_crosses_a_hedge(args):
  world, n = worlds.make("maze", **args), args.get("cells", 5)
  states = wild_walks(world, walks=48, steps=400)
  line = 1 + 62 / n * np.arange(n + 1)
  assert 2.009 <= states.position.min() and states.position.max() <= 62 - 0.009
  seen, visited = 0, []
  for i in range(48):
    p = states.position[i]
    low, high = hedges(states.right[i, 0], states.down[i, 0], line, 1.0)
    assert not crossed(p[:-1], p[1:], low, high).any(), i
    seen += crossed(p[:-1], p[1:], low - 0.5, high + 0.5).any()
    visited.append(len(np.unique(np.floor((p - 1) / (62 / n)), axis=0)))
  assert seen == 48 and np.mean(visited) > 5, "walls half a pixel thicker would go unnoticed, or nobody walks"


def test_mazes_are_trees_with_loops():
  for n, loops, count in ((5, 0, 200), (6, 3, 200), (2, 0, 20)):
    draw = lambda k, n=n, loops=loops: maze.layout(k, cells=n, loops=loops)
    right, down = jax.device_get(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(n + loops), count)))
    assert right.shape == (count, n, n - 1) and down.shape == (count, n - 1, n) and right.dtype == bool
    assert (right.sum((1, 2)) + down.sum((1, 2)) == n * n - 1 + loops).all()
    moves = np.asarray(jax.jit(jax.vmap(maze.distances))(right, down))
    for i in range(min(count, 20)):
      np.testing.assert_array_equal(moves[i], reach(right[i], down[i]))
    assert moves.max() < n * n                      # with as many edges, connected means a tree
    if count == 200:
      assert len({r.tobytes() + d.tobytes() for r, d in zip(right, down)}) == count
      often = np.concatenate([right.reshape(count, -1), down.reshape(count, -1)], 1).mean(0)
      assert 0.35 < often.min() and often.max() < 0.95, often


def test_distances_know_what_is_cut_off():
  right, down = np.ones((3, 2), bool), np.zeros((2, 3), bool)
  down[0, 0] = True
  moves = np.asarray(maze.distances(right, down))
  expected = reach(right, down)
  np.testing.assert_array_equal(moves, np.where(expected < 0, 9, expected))
  assert (moves == 9).any()


def test_problems_of_mazes_are_apart_and_not_solved_through_walls():
  world, least = worlds.make("maze", apart=7), 7
  start, goal = jax.device_get(jax.jit(jax.vmap(world.problem))(jax.random.split(jax.random.key(2), 400)))
  moves = np.asarray(jax.jit(jax.vmap(maze.distances))(start.right, start.down))
  cell = lambda s: np.floor((s.position - 1) / 12.4).astype(int) @ [1, 5]
  between = moves[np.arange(400), cell(start), cell(goal)]
  assert between.min() == least and len(np.unique(cell(goal))) == 25 and len(np.unique(between)) > 5
  offset = (goal.position - 1) / 12.4 % 1
  assert 1 / 3 - 1e-3 < offset.min() and offset.max() < 2 / 3 + 1e-3
  # success from anywhere means standing in the goal's own cell
  place = jax.random.uniform(jax.random.key(3), (400, 50, 2), minval=2, maxval=62)
  won = np.asarray(jax.vmap(lambda p, g: jax.vmap(lambda q: world.success(g._replace(position=q), g))(p))(
      place, goal))
  same = (np.floor((place - 1) / 12.4) == np.floor((goal.position[:, None] - 1) / 12.4)).all(-1)
  assert won.any() and same[won].all()


def test_led_walks_get_through_mazes():
  world = worlds.make("maze", led=1.0)
  def walk(key):
    k_reset, k_behave = jax.random.split(key)
    start = world.reset(k_reset)
    return worlds.rollout(world, start, world.behave(k_behave, start, 90)).position
  position = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(4), 100)))
  cells = [len(np.unique(p, axis=0)) for p in np.floor((position - 1) / 12.4)]
  assert np.mean(cells) > 5.5 and np.quantile(cells, 0.05) >= 4, cells


def test_pictures_of_mazes_show_their_walls():
  world = _made("maze")
  state = jax.jit(world.reset)(jax.random.key(5))
  image = np.asarray(jax.jit(world.render)(state)).astype(float) / 255
  fine = (np.arange(64 * 20) + 0.5) / 20                          # twenty points a pixel and axis
  x, y = np.meshgrid(fine, fine)
  low, high = hedges(np.asarray(state.right), np.asarray(state.down), 1 + 12.4 * np.arange(6), 1.0)
  solid = np.zeros_like(x, bool)
  for (x0, y0), (x1, y1) in zip(low, high):
    solid |= (x0 < x) & (x < x1) & (y0 < y) & (y < y1)
  np.testing.assert_allclose(image[..., 1], solid.reshape(64, 20, 64, 20).mean((1, 3)), atol=0.01)
  centre = np.argwhere(image[..., 0] == image[..., 0].max()).mean(0)
  assert abs(centre[::-1] + 0.5 - np.asarray(state.position)).max() <= 0.51


# The T.


def placed(agent, block=(256, 256), angle=0.0):
  return pusht.State(jnp.float32(agent), jnp.float32(block), jnp.float32(angle))


@functools.cache
def _pushes():
  """(state, actions [T 2]) -> states."""
  return jax.jit(functools.partial(worlds.rollout, _made("pusht")))


def pushed(state, way, steps=10):
  """States on the way of the disc along `way` [2] pixels."""
  return jax.device_get(_pushes()(state, np.tile(np.float32(way) / steps / pusht.REACH, (steps, 1))))


def centre(s):
  return s.block + 45 * np.stack([-np.sin(s.angle), np.cos(s.angle)], -1)


def outline(s):
  """Corners of bar and stem [... 8 2] of states."""
  local = np.float64([(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)])
  cos, sin = np.cos(s.angle)[..., None], np.sin(s.angle)[..., None]
  x, y = local[:, 0], local[:, 1]
  return np.stack([cos * x - sin * y, sin * x + cos * y], -1) + s.block[..., None, :]


def away(s):
  """Distance of the disc's centre from the T, 0 inside: the least over its edges, unless it is within."""
  corner, p = outline(s).astype(np.float64), s.agent[..., None, :].astype(np.float64)
  edges = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 7), (7, 6), (6, 5)]
  a, b = (corner[..., [e[i] for e in edges], :] for i in (0, 1))
  t = np.clip(((p - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
  distance = np.linalg.norm(p - a - t[..., None] * (b - a), axis=-1).min(-1)
  cos, sin = np.cos(s.angle), np.sin(s.angle)
  d = s.agent - s.block
  x, y = cos * d[..., 0] + sin * d[..., 1], cos * d[..., 1] - sin * d[..., 0]
  within = (abs(x) < 60) & (0 < y) & (y < 30) | (abs(x) < 15) & (30 <= y) & (y < 120)
  return np.where(within, 0.0, distance)


def test_disc_and_block_never_overlap_and_never_leave():
  """Under actions that hold their direction, so that the T is driven into the border and its corners."""
  world = _made("pusht")
  def walk(key):
    k_reset, k_any, k_towards = jax.random.split(key, 3)
    def one(s, drawn):
      k, any_ = drawn
      towards = s.block - s.agent
      towards = towards / jnp.maximum(jnp.linalg.norm(towards), 1.0)
      s = world.step(s, jnp.where(jax.random.bernoulli(k, 0.8), 3 * towards, any_))
      return s, s
    held = jnp.repeat(jax.random.normal(k_any, (30, 2)) * 2, 5, 0)
    start = world.reset(k_reset)
    return start, jax.lax.scan(one, start, (jax.random.split(k_towards, 150), held))[1]
  start, states = jax.device_get(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(1), 64)))
  for s in (start, states):
    assert away(s).min() > 15 - pusht.TOLERANCE - 1e-3
    assert outline(s).min() > 7 - 1e-3 and outline(s).max() < 504 + 1e-3
    assert s.agent.min() >= 22 and s.agent.max() <= 489
  touching = away(states) < 15.1
  cornered = ((outline(states) < 7.1) | (outline(states) > 503.9)).any((-1, -2))
  assert 0.2 < touching.mean() and 0.05 < (touching & cornered).mean(), "the T was not driven into the border"
  again = jax.device_get(jax.jit(jax.vmap(jax.vmap(pusht.overlap)))(jax.tree.map(lambda x: x[:, :5], states)))
  outside = away(states)[:, :5] > 0
  np.testing.assert_allclose(again[outside], (15 - away(states)[:, :5])[outside], atol=1e-2)


def test_the_block_rests_until_it_is_touched():
  states = pushed(placed((100, 100), angle=0.7), (0, 300), steps=12)
  assert (away(states) > 15).all()
  assert (states.block == states.block[0]).all() and (states.angle == states.angle[0]).all()
  assert np.linalg.norm(states.agent[-1] - states.agent[0]) > 250


def test_pushes_through_the_centre_translate():
  for angle in (0.0, 2.0):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for at, way, gap in (((0, -20), (0, 60), 5), ((0, 140), (0, -60), 5), ((40, 45), (-60, 0), 10),
                         ((-40, 45), (60, 0), 10)):
      s = pushed(placed(turn @ at + 256, angle=angle), turn @ way)
      assert abs(s.angle[-1] - angle) < 1e-3
      np.testing.assert_allclose(s.block[-1] - 256, turn @ way * (1 - gap / 60), atol=0.05)


def test_pushes_off_the_centre_turn_it_the_right_way():
  """x is right and y down, and the angle turns x towards y: down on the right arm is positive."""
  ends = {}
  for x in (-50, -20, 20, 50):
    s = pushed(placed((256 + x, 236)), (0, 60))
    ends[x] = s.angle[-1]
    assert np.sign(s.angle[-1]) == np.sign(x) and s.block[-1, 1] > 256 + 5
    # far from the centre it turns more and goes less: the arm decides between the two
  assert abs(ends[50]) > 1.2 * abs(ends[20]) and abs(ends[50] + ends[-50]) < 2e-3
  low = pushed(placed((256 + 40, 256 + 110)), (-60, 0))          # the foot of the stem, to the left
  assert low.angle[-1] > 0.1


def test_the_disc_gives_way_to_a_block_that_cannot_move():
  """The bar lies at the upper border; the disc comes from below, aslant, and slides along it."""
  s = pushed(placed((290, 56), (256, 7)), (22, -30))
  np.testing.assert_allclose(s.agent[-1], (312, 52), atol=1)
  np.testing.assert_allclose(s.block[-1], (256, 7), atol=1)


def test_the_block_never_goes_farther_than_the_disc():
  start = jax.jit(jax.vmap(_made("pusht").reset))(jax.random.split(jax.random.key(2), 64))
  start = start._replace(block=start.block * 0.2 + 200)          # far from the border
  free = away(jax.device_get(start)) > 15
  way = start.block + 30 * jax.random.normal(jax.random.key(3), (64, 2)) - start.agent
  actions = jnp.repeat((way / 12 / pusht.REACH)[:, None], 10, 1)
  s = jax.device_get(jax.jit(jax.vmap(functools.partial(worlds.rollout, _made("pusht"))))(start, actions))
  s = jax.tree.map(lambda x: x[free], s)
  path = lambda x: np.linalg.norm(np.diff(x, axis=1), axis=-1)
  went = abs(np.asarray(actions)[free] * pusht.REACH)
  assert (path(centre(s)) <= np.linalg.norm(went, axis=-1) * 1.05 + 0.1).all()
  assert (path(centre(s)).sum(1) > 10).mean() > 0.5 and free.mean() > 0.7


def test_pushes_end_where_pymunk_ends_them():
  """A kinematic disc in a space whose damping leaves no velocity, with the bodies of gym-pusht."""
  pymunk = pytest.importorskip("pymunk", reason="pymunk is not installed")
  rng = np.random.default_rng(0)
  for _ in range(6):
    angle, block, bearing = rng.uniform(-3, 3), rng.uniform(200, 300, 2), rng.uniform(0, 2 * np.pi)
    middle = block + 45 * np.array([-np.sin(angle), np.cos(angle)])
    agent = middle + 110 * np.array([np.cos(bearing), np.sin(bearing)])
    way = middle + rng.uniform(-25, 25, 2) - agent
    way *= 120 / np.linalg.norm(way)

    space = pymunk.Space()
    space.damping = 0
    disc, t = pymunk.Body(body_type=pymunk.Body.KINEMATIC), pymunk.Body(1, 3000)
    shapes = [pymunk.Poly(t, [(-60, 0), (60, 0), (60, 30), (-60, 30)]),
              pymunk.Poly(t, [(-15, 30), (15, 30), (15, 120), (-15, 120)])]
    t.center_of_gravity = (0, 45)
    disc.position, t.angle, t.position = tuple(agent), angle, tuple(block)
    space.add(disc, pymunk.Circle(disc, 15), t, *shapes)
    disc.velocity = tuple(way / 1.2)
    for _ in range(120):
      space.step(0.01)

    s = pushed(placed(agent, block, angle), way, steps=12)
    assert np.linalg.norm(s.block[-1] - block) > 20
    np.testing.assert_allclose(s.agent[-1], disc.position, atol=0.01)
    np.testing.assert_allclose(s.block[-1], t.position, atol=0.6)
    np.testing.assert_allclose(s.angle[-1], t.angle, atol=0.02)


def test_pictures_of_the_t_show_motions_below_a_pixel():
  world = _made("pusht")
  render, state = jax.jit(world.render), placed((150, 150), (300, 260), 0.4)
  image = np.asarray(render(state)).astype(int)
  for field, by in (("agent", (0.5, 0)), ("block", (0, 0.5)), ("angle", 0.01)):
    other = np.asarray(render(state._replace(**{field: getattr(state, field) + jnp.float32(by)}))).astype(int)
    assert (other != image).any(-1).sum() >= 5, field          # of 5.3 pixels of the frame each
  inner = image[3:-3, 3:-3]
  share = lambda colour: ((255 - inner[..., 0]) / (255 - colour)).sum() * (512 / 96) ** 2
  bare = np.asarray(render(state._replace(block=jnp.float32([2000, 2000])))).astype(int)[3:-3, 3:-3]
  disc = ((255 - bare[..., 0]) / (255 - 65)).sum() * (512 / 96) ** 2
  assert abs(disc / (np.pi * 15**2) - 1) < 0.03
  assert abs((share(119) - disc * 190 / 136) / 6300 - 1) < 0.03
  assert image[28, 28].tolist() == [65, 105, 225] and image[20, 70].tolist() == [255] * 3


def test_success_of_the_t():
  success = jax.jit(_made("pusht").success)
  goal = placed((100, 100), (256, 256), 3.1)
  near = lambda **change: bool(success(goal._replace(**{k: jnp.float32(v) for k, v in change.items()}), goal))
  assert near(angle=3.1 - 2 * np.pi) and near(angle=3.1 + 0.34) and near(angle=-3.1)
  assert not near(angle=3.1 + 0.36) and not near(angle=3.1 - 0.36)
  assert near(agent=(114, 114)) and not near(agent=(115, 115)) and not near(block=(256, 277))
  assert not near(agent=(115, 100), block=(256, 270))                # together, as one vector


def test_goals_of_the_t_are_ahead():
  start, goal = _run("pusht")["start"], _run("pusht")["goal"]
  moved = np.linalg.norm(centre(start) - centre(goal), axis=-1)
  assert 0.6 < (moved > 5).mean() and (moved < 400).all()
