"""Gymnasium environments as worlds that step on the host: any with a Box of actions, in pictures.

A `HostWorld` is no pure function, so it is no `World`; an evaluation (jepa/evals/planning_host.py) plans on the
device for many episodes at once and steps them here, in one process. A `Driver` says how one environment is driven,
`Batch` drives several in step, `make` gives the world of any environment by its id; jepa/worlds/pusht_gym.py is
gym-pusht with a published protocol.

Gymnasium is optional: pip install gymnasium, or jepa[gym] with gym-pusht.

Shape letters: N episodes, A numbers in an action, P numbers in a state, T steps, H W C image.
"""
from collections.abc import Callable, Mapping, Sequence
import importlib
import os
from typing import Any, NamedTuple
import warnings

import numpy as np
from PIL import Image
from scipy import special

from jepa.worlds.world import Actions

VERSION = 1                         # of everything below
PREFIX = "gymnasium:"               # of an id on the command line
PICTURES = ("pixels", "image", "rgb")       # entries of an observation that are taken for its picture


class Seen(NamedTuple):
  """What there is to see of an environment; who plans sees the picture alone."""

  image: np.ndarray                 # uint8 [... H W C]
  state: np.ndarray                 # f32 [... P]


class Problem(NamedTuple):
  """What an episode is asked; of several, each field has a leading N."""

  seed: np.ndarray                  # int32 [], of the environment's reset
  start: np.ndarray                 # f32 [P], set after it; [0]: where the seed starts
  goal: Seen
  actions: np.ndarray               # f32 [T A], by which the goal was reached from the start


Policy = Callable[[np.ndarray], np.ndarray]                           # state [P] -> action [A]


class Driver(NamedTuple):
  """How one environment is driven."""

  open: Callable[[], Any]                                             # () -> env
  start: Callable[[Any, int, np.ndarray], Any]                        # (env, seed, state [P] or [0]) -> observation
  step: Callable[[Any, np.ndarray], tuple[Any, bool, bool]]           # (env, action [A]) -> observation, whether the
                                                                      # environment tells success, whether it is over
  image: Callable[[Any, Any], np.ndarray]                             # (env, observation) -> uint8 [H W C]
  state: Callable[[Any, Any], np.ndarray]                             # (env, observation) -> f32 [P]
  behave: Callable[[np.random.Generator], Policy]                     # what training data are made of: an episode's


class HostWorld(NamedTuple):
  """An environment with its protocol."""

  name: str
  version: int
  actions: Actions                  # of one step of the environment
  image: tuple[int, int, int]       # H W C
  driver: Driver
  problems: Callable[[int, int], tuple[Problem, dict[str, Any]]]      # (seed, count N) -> problems, of which the
                                                                      # first are the same for any count; facts
  success: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]     # (states [N P], the goals' [N P], told
                                                                      # bool [N]) -> bool [N]
  budget: int                       # steps the protocol allows
  texts: tuple[str, str]            # how problems are drawn; what success is

  @staticmethod
  def render(seen: Seen):
    """The picture, as `World.render` has it of a state."""
    return seen.image


class Batch:
  """Environments in step, each from its own start."""

  def __init__(self, driver: Driver, count: int):
    self._driver, self._envs = driver, [driver.open() for _ in range(count)]

  def reset(self, seeds: Sequence[int], starts: np.ndarray) -> None:
    """Starts by seeds int [N] at states f32 [N P], or, [N 0], where the seeds start."""
    self._seen = [self._driver.start(e, int(s), x) for e, s, x in zip(self._envs, seeds, starts, strict=True)]
    self._states = [self._driver.state(e, o) for e, o in zip(self._envs, self._seen)]
    self._pictures = [None] * len(self._envs)
    self.over = np.zeros(len(self._envs), bool)         # takes no more steps

  def step(self, actions: np.ndarray, live: np.ndarray | None = None) -> np.ndarray:
    """Takes actions f32 [N A] where `live` bool [N] and not over; bool [N]: which tell success."""
    told = np.zeros(len(self._envs), bool)
    for i, env in enumerate(self._envs):
      if not self.over[i] and (live is None or live[i]):
        self._seen[i], told[i], self.over[i] = self._driver.step(env, np.asarray(actions[i], np.float32))
        self._states[i], self._pictures[i] = self._driver.state(env, self._seen[i]), None
    return told

  def states(self) -> np.ndarray:
    """f32 [N P]."""
    return np.stack(self._states).astype(np.float32)

  def picture(self, i: int) -> np.ndarray:
    """uint8 [H W C] of one. Drawn only when asked for, since drawing often costs more than a step."""
    if self._pictures[i] is None:
      self._pictures[i] = self._driver.image(self._envs[i], self._seen[i])
    return self._pictures[i]

  def look(self) -> Seen:
    """Pictures and states of all."""
    return Seen(np.stack([self.picture(i) for i in range(len(self._envs))]), self.states())

  def close(self) -> None:
    """Closes the environments."""
    for env in self._envs:
      env.close()


def make(id: str, *, args: Mapping[str, Any] = {}, size: int | tuple[int, int] = 64, ahead: int = 25,
         budget: int = 50, tolerance: float = 0.0) -> HostWorld:
  """The world of an environment that is registered with Gymnasium. Its picture is the observation, where that is one
  or has an entry `PICTURES`, otherwise what render_mode="rgb_array" draws; its state, the observation's other
  numbers.

  A problem: the start is a seed's, the goal where `ahead` actions of `smooth` lead from it; not drawn where the start
  is within `tolerance` already. Episodes that the environment ends are over, which is no success by itself.

  Args:
    id: as of gymnasium.make ("module:Name-v0" imports the module first). args: its keyword arguments.
    size: S or (H, W), to which pictures are resized.
    tolerance: success is a state nearer to the goal's than this (Euclidean); 0: what the environment says in
      info["is_success"] or info["success"], whatever the goal.

  Raises:
    RuntimeError: Gymnasium is missing.
    ValueError: no such environment, no bounded Box of actions, no picture, a tolerance without a state or so
      large that starts are goals; on asking for success, nothing that says it.
  """
  low, high, pictured = _spaces(id, args)
  shape, drawn = low.shape, {} if pictured else dict(render_mode="rgb_array")
  size = (size, size) if isinstance(size, int) else tuple(size)
  flat = low.reshape(-1), high.reshape(-1)

  def step(env, action):
    observation, _, terminated, truncated, info = env.step(np.clip(action.reshape(shape), low, high))
    return observation, bool(_told(info)), bool(terminated or truncated)

  def image(env, observation):
    return resized(_picture(observation) if pictured else env.render(), size)

  driver = Driver(lambda: gym().make(id, disable_env_checker=True, **drawn, **args),
                  lambda env, seed, state: env.reset(seed=seed)[0], step, image,
                  lambda env, observation: _vector(observation), lambda rng: smooth(rng, *flat))

  env = driver.open()
  first = driver.start(env, 0, ())
  shape_image, width = driver.image(env, first).shape, driver.state(env, first).size
  says = _told(env.step((low + high) / 2)[4]) is not None
  env.close()
  if tolerance and not width:
    raise ValueError(f"{id} observes its picture alone, so that no tolerance says how far it is from the goal")

  def success(states, goals, told):
    if not (tolerance or says):
      raise ValueError(f"{id} says neither is_success nor success in its info; give tolerance, the distance of its "
                       "state from the goal's that counts as success (--world_set=tolerance=...)")
    return np.linalg.norm(states - goals, axis=-1) < tolerance if tolerance else told

  def problem(env, seed, i):
    draws = generator(seed, i)
    start = int(draws.integers(2**31))
    observation, act, actions, over = driver.start(env, start, ()), driver.behave(draws), [], False
    first = driver.state(env, observation)
    while not over and len(actions) < ahead:
      actions.append(act(driver.state(env, observation)))
      observation, _, over = driver.step(env, actions[-1])
    actions += [np.zeros_like(flat[0])] * (ahead - len(actions))
    goal = Seen(driver.image(env, observation), driver.state(env, observation))
    return Problem(np.int32(start), np.zeros(0, np.float32), goal, np.stack(actions)), first

  def problems(seed, count):
    env, found, solved = driver.open(), [], 0
    while len(found) < count:
      asked, first = problem(env, seed, len(found) + solved)
      if tolerance and success(first, asked.goal.state, False):
        solved += 1
        if solved > 100 * count:
          raise ValueError(f"{id}: {ahead} actions lead nowhere that is not within {tolerance} of the start; lower "
                           "tolerance or raise ahead")
      else:
        found.append(asked)
    env.close()
    return stack(found), {"candidates": count + solved, "left_out_since_solved": solved}

  return HostWorld(
      PREFIX + id, VERSION, Actions(*flat), shape_image, driver, problems, success, budget,
      (f"a seed's start; the goal is where {ahead} smoothed random actions lead; solved ones left out",
       f"state within {tolerance} of the goal's, after any step" if tolerance else "as the environment tells"))


# ---- behaviour, pictures, draws ----

def smooth(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, keep: float = 0.8) -> Policy:
  """Actions that are uniform in the box [A], and of which each keeps to the last: an autoregression
  u <- keep u + sqrt(1 - keep^2) n of standard normals, through their distribution function."""
  u = rng.normal(size=low.shape)

  def act(state):
    nonlocal u
    action = low + (high - low) * special.ndtr(u)
    u = keep * u + np.sqrt(1 - keep**2) * rng.normal(size=low.shape)
    return action.astype(np.float32)

  return act


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 [h w] or [h w C] -> [H W C] (bilinear, antialiased, aspect not kept), as recordings are read."""
  image = np.asarray(image)
  if image.shape[:2] != tuple(size):
    squeezed = image[..., 0] if image.shape[2:] == (1,) else image
    image = np.asarray(Image.fromarray(squeezed).resize(size[::-1], Image.Resampling.BILINEAR))
  return image if image.ndim == 3 else image[..., None]


def generator(*seeds: int) -> np.random.Generator:
  """Draws by several seeds, each of which changes all of them."""
  return np.random.default_rng(np.random.SeedSequence(list(seeds)))


def stack(problems: Sequence[Problem]) -> Problem:
  """Problems, each field with a leading N."""
  each = [(p.seed, p.start, *p.goal, p.actions) for p in problems]
  seed, start, image, state, actions = (np.stack(x) for x in zip(*each))
  return Problem(seed, start, Seen(image, state), actions)


# ---- the library ----

def library(name: str, install: str):
  """An optional module; what it warns of while it is imported is its own business.

  Raises:
    RuntimeError: it is missing; says what to install.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      return importlib.import_module(name)
  except ImportError as error:
    raise RuntimeError(f"{name} cannot be imported ({error}); it is optional: pip install {install}") from error


def gym():
  """The library, without a screen."""
  os.environ.setdefault("SDL_VIDEODRIVER", "dummy")               # pictures without a screen
  os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
  return library("gymnasium", "gymnasium")


def _spaces(id: str, args: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, bool]:
  """Limits of actions, f32 of their shape, and whether observations have a picture."""
  lib = gym()
  try:
    env = lib.make(id, disable_env_checker=True, **args)
  except (lib.error.Error, ModuleNotFoundError, TypeError) as error:
    raise ValueError(f"Gymnasium cannot make {id!r} with {dict(args)}: {error}") from error
  box, modes = env.action_space, env.metadata.get("render_modes", ())
  pictured = _picture(env.observation_space) is not None
  env.close()
  if not isinstance(box, lib.spaces.Box) or not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
    raise ValueError(f"{id} has actions {box}; planning needs a Box with finite limits")
  if not pictured and "rgb_array" not in modes:
    raise ValueError(f"{id} observes {env.observation_space} and renders {list(modes)}; a picture is needed: an "
                     f"observation uint8 [H W C], one of its entries {', '.join(PICTURES)}, or \"rgb_array\"")
  return box.low.astype(np.float32), box.high.astype(np.float32), pictured


def _told(info: Mapping[str, Any]):
  """Whether an environment tells success; None where it does not say."""
  return info.get("is_success", info.get("success"))


def _picture(observation):
  """The picture of an observation, or the space of it; None where it has none."""
  of = getattr(observation, "spaces", observation)
  entries = [of[k] for k in PICTURES if k in of] if isinstance(of, Mapping) else [of]
  return next((x for x in entries if getattr(x, "dtype", None) == np.uint8 and len(x.shape) in (2, 3)), None)


def _vector(observation) -> np.ndarray:
  """f32 [P]: the numbers of an observation but its picture."""
  if isinstance(observation, Mapping):
    rest = [np.ravel(v) for k, v in observation.items() if _picture({k: v}) is None]
    return np.concatenate([np.zeros(0), *rest]).astype(np.float32)
  return np.zeros(0, np.float32) if _picture(observation) is not None else np.ravel(observation).astype(np.float32)
