"""PushT as gym-pusht simulates it (Diffusion Policy, arXiv 2303.04137), with problems from human
demonstrations: the protocol of DINO-WM (arXiv 2411.04983) and LeWM (2603.19312) on another data set and with
absolute actions.

A problem: a step of a held-out episode, the disc at rest, and the state `ahead` steps later; those of which
the start is already within the goal's tolerance are not drawn. Success: disc and T together, as one vector of
four numbers, within 20 pixels of the goal, and the angle within pi / 9, after any step.

Actions are where the disc is to go, x and y in 0 .. 512, ten a second: a damped spring follows them. A state
is x, y of the disc, x, y and angle of the T. It is set with the angle first: the T's position is not its
centre of mass, about which setting an angle turns it, so that gym-pusht's own reset_to_state puts the T
elsewhere.

Measured with version 0.1.8: recorded actions replayed from 208 recorded states, at rest, are after 25 steps
0.0 px off the recorded T in the median, 0.3 px and 0.002 rad in 90 of 100, 1.1 px and 0.007 rad in 99.

Pictures are gym-pusht's own observation, 96 x 96, resized like recordings where another size is asked for.
They show the green outline of the task's target at its one place, because recorded frames do; the goal of a
problem is another and not drawn, so the outline says nothing of it. The red cross that `render` draws at the
last action is not in them.

  pip install gym-pusht, or jepa[gym]

Shape letters: N problems, A = 2, P = 5, T steps.
"""
import math
from pathlib import Path
from typing import Any

import numpy as np

from jepa.worlds import gymnasium
from jepa.worlds.host import Driver, HostWorld, Policy, Problem, Seen, generator, resized
from jepa.worlds.world import Actions

NAME, ID = "pusht_gym", "gym_pusht/PushT-v0"
VERSION = 1                         # of everything below
FRAME, SIDE = 512.0, 96             # of the table; of pictures before they are resized
WALLS, RADIUS = (7.0, 504.0), 15.0  # inner faces; of the disc
NEAR, TURN = 20.0, math.pi / 9      # pixels and radians that count as success
BAR = np.float32([0, 45])           # the T's centre of mass, in its own frame


def make_hosted(*, path: str = "", size: int = SIDE, ahead: int = 25, budget: int = 50,
                test_share: float = 0.2, split_seed: int = 0, part: str = "test") -> HostWorld:
  """The world.

  Args:
    path: demonstrations with states (jepa/data/recordings); only problems need them.
    ahead: steps from a start to its goal. budget: steps allowed.
    test_share, split_seed, part: which episodes problems are from; as the run's data has them, so that "test"
      was not trained on.

  Raises:
    RuntimeError: gym-pusht is missing. ValueError: numbers that make no sense.
  """
  _library()
  if size < 8 or ahead < 1 or budget < 1:
    raise ValueError(f"{NAME}: size = {size}, ahead = {ahead}, budget = {budget}; at least 8, 1 and 1")
  driver = Driver(open_env, start, step, lambda env, observation: resized(picture(env), (size, size)),
                  lambda env, observation: observation, behave)
  return HostWorld(
      NAME, VERSION, Actions(np.zeros(2, np.float32), np.full(2, FRAME, np.float32)), (size, size, 3), driver,
      lambda seed, count: problems(driver, seed, count, path=path, ahead=ahead, test_share=test_share,
                                   split_seed=split_seed, part=part),
      lambda states, goals, told: success(states, goals), budget,
      (f"a state of episodes of part {part!r}, the state {ahead} steps later; starts that succeed already "
       "left out",
       f"disc and T, four numbers, within {NEAR:g} px, angle within pi/9, after any step; no policy sees it"))


def success(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
  """bool [...] of states and goals [... 5]; angles are compared modulo 2 pi."""
  states, goals = np.asarray(states, np.float64), np.asarray(goals, np.float64)
  turned = np.abs((states[..., 4] - goals[..., 4] + np.pi) % (2 * np.pi) - np.pi)
  return (np.linalg.norm(states[..., :4] - goals[..., :4], axis=-1) < NEAR) & (turned < TURN)


# ---- one environment ----

def open_env():
  """An environment without Gymnasium's wrappers, that is without its end after 300 steps or at the task's
  target."""
  return _library().make(ID, obs_type="state", observation_width=SIDE, observation_height=SIDE,
                         disable_env_checker=True).unwrapped


def start(env, seed: int, state: np.ndarray) -> np.ndarray:
  """The state f32 [5] after a reset: `state`, or for [0] what the seed draws, disc in 50 .. 450 and T in
  100 .. 400 as gym-pusht has it, but set exactly, the T within the walls and apart from the disc."""
  env.reset(seed=seed)
  rng = generator(seed)
  draw = lambda: np.float32([*rng.uniform(50, 450, 2), *rng.uniform(100, 400, 2),
                             rng.uniform(0, 2 * math.pi)])
  put(env, state if len(state) else draw())
  while not len(state) and not _clear(env):
    put(env, draw())
  return observe(env)


def _clear(env) -> bool:
  corners = np.array([env.block.local_to_world(v) for s in env.block.shapes for v in s.get_vertices()])
  gap = min(s.point_query(tuple(env.agent.position)).distance for s in env.block.shapes)
  return bool(corners.min() > WALLS[0] and corners.max() < WALLS[1] and gap > RADIUS)


def put(env, state: np.ndarray) -> None:
  """Sets a state [5], everything at rest."""
  x, y, block_x, block_y, angle = map(float, state)
  env.agent.position, env.agent.velocity = (x, y), (0, 0)
  env.block.angle = angle                     # first: it moves the position
  env.block.position = block_x, block_y
  env.block.velocity, env.block.angular_velocity = (0, 0), 0
  for body in (env.agent, env.block):
    env.space.reindex_shapes_for_body(body)   # pictures are drawn from the shapes


def observe(env) -> np.ndarray:
  """f32 [5], the angle in 0 .. 2 pi."""
  return np.float32([*env.agent.position, *env.block.position, env.block.angle % (2 * math.pi)])


def step(env, action: np.ndarray) -> tuple[np.ndarray, bool, bool]:
  """One action [2]; neither success nor end, which are the protocol's."""
  env.step(np.clip(action, 0.0, FRAME))
  return observe(env), False, False


def picture(env) -> np.ndarray:
  """uint8 [96 96 3]."""
  return env._render(visualize=False)     # get_obs draws only where every step does, `render` adds a cross


def behave(rng: np.random.Generator) -> Policy:
  """Training actions, those of the native PushT: every 8 steps a new place to go, three times in four within
  40 pixels of the T's centre, otherwise anywhere, and a pace of 5 to 25 pixels a step; 2 pixels of noise."""
  count, place, pace = 0, np.zeros(2), 0.0

  def act(state):
    nonlocal count, place, pace
    agent, block, angle = state[:2], state[2:4], state[4]
    if count % 8 == 0:
      cos, sin = math.cos(angle), math.sin(angle)
      turn, radius = rng.uniform(0, 2 * math.pi), 40 * math.sqrt(rng.uniform())
      around = radius * np.array([math.cos(turn), math.sin(turn)])
      near = block + np.array([[cos, -sin], [sin, cos]]) @ BAR + around
      place = near if rng.uniform() < 0.75 else rng.uniform(22, 489, 2)
      pace = rng.uniform(5, 25)
    count += 1
    way = place - agent
    way *= min(1.0, pace / max(1e-6, np.linalg.norm(way)))
    # the spring goes about half of the way to a target that keeps its distance
    return np.clip(agent + 2 * (way + 2 * rng.normal(size=2)), 0, FRAME).astype(np.float32)

  return act


# ---- problems ----

def problems(driver: Driver, seed: int, count: int, *, path: str, ahead: int, test_share: float = 0.2,
             split_seed: int = 0, part: str = "test") -> tuple[Problem, dict[str, Any]]:
  """`count` different problems drawn by `seed`, of how many, and how many of them were left out.

  Raises:
    FileNotFoundError, ValueError: no demonstrations, or fewer problems than `count` in them.
  """
  from jepa.data import recordings
  from jepa.data.sources import trajectories
  if not path:
    raise ValueError(f"{NAME} draws its problems from demonstrations: give their path, the folder with "
                     "pusht_demos.npz (--world_set=path=...)")
  data = recordings.read(Path(path).expanduser(), images=False)
  if data.state.shape[1] != 5 or data.action.shape[1] != 2:
    raise ValueError(f"{path}: states {data.state.shape}, actions {data.action.shape}; PushT has 5 and 2 "
                     "columns: x, y of the disc, x, y and angle of the T; x, y of the target")
  chosen = trajectories.split(len(data.ends), test_share, split_seed)
  if part not in chosen:
    raise ValueError(f"{NAME}: part = {part!r}; choose among {', '.join(chosen)}")
  spans = recordings.episodes(data.ends)[chosen[part]]
  steps = np.concatenate([np.arange(a, b - ahead) for a, b in spans])
  already = success(data.state[steps], data.state[steps + ahead])
  open_ = steps[~already]
  if count > len(open_):
    raise ValueError(f"{path}: {len(open_)} problems of {ahead} steps in part {part!r}, {count} asked for; "
                     "lower --episodes or ahead")
  drawn = generator(seed).permutation(open_)[:count]
  env = driver.open()
  goals = []
  for state in data.state[drawn + ahead]:
    observed = driver.start(env, 0, state)
    goals.append((driver.image(env, observed), observed))
  env.close()
  image, state = map(np.stack, zip(*goals))
  found = Problem(np.zeros(count, np.int32), data.state[drawn], Seen(image, state),
                  np.stack([data.action[i:i + ahead] for i in drawn]))
  return found, {"candidates": len(steps), "left_out_since_solved": int(already.sum()),
                 "episodes_of_data": len(spans)}


def _library():
  """Gymnasium, and PushT registered with it."""
  found = gymnasium.gym()
  gymnasium.library("gym_pusht", "gym-pusht")
  return found
