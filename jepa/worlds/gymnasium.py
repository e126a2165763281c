"""Gymnasium environments as worlds that step on the host: any with a Box of actions, in pictures.

The world of an environment by its id, "gymnasium:ID"; jepa/worlds/pusht_gym.py is gym-pusht with a published
protocol. Gymnasium is optional: pip install gymnasium, or jepa[gym] with gym-pusht.

Shape letters: N episodes, A numbers in an action, P numbers in a state, T steps, H W C image.
"""
from collections.abc import Callable, Mapping
import functools
import importlib
import os
from typing import Any
import warnings

import numpy as np
from scipy import special

from jepa.worlds.host import Driver, HostWorld, Policy, Problem, Seen, generator, resized, stack
from jepa.worlds.world import Actions

VERSION = 1                         # of everything below and of host.py
PICTURES = ("pixels", "image", "rgb")       # entries of an observation that are taken for its picture


def make_hosted(id: str, *, args: Mapping[str, Any] = {}, size: int | tuple[int, int] = 64, ahead: int = 25,
                budget: int = 50, tolerance: float = 0.0) -> HostWorld:
  """The world of an environment that is registered with Gymnasium. Its picture is the observation, where that
  is one or has an entry `PICTURES`, otherwise what render_mode="rgb_array" draws; its state, the
  observation's other numbers.

  A problem: the start is a seed's, the goal where `ahead` actions of `smooth` lead from it; not drawn where
  the start is within `tolerance` already. Episodes that the environment ends are over, which is no success by
  itself.

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
  driver = _driver(id, args, low, high, pictured, (size, size) if isinstance(size, int) else tuple(size))
  env = driver.open()
  first = driver.start(env, 0, ())
  image, width = driver.image(env, first).shape, driver.state(env, first).size
  says = _told(env.step((low + high) / 2)[4]) is not None
  env.close()
  if tolerance and not width:
    raise ValueError(f"{id} observes its picture alone, so that no tolerance says how far it is from the "
                     "goal")
  success = functools.partial(_success, id, tolerance, says)
  told = f"state within {tolerance} of the goal's, after any step"
  return HostWorld(
      f"gymnasium:{id}", VERSION, Actions(low.reshape(-1), high.reshape(-1)), image, driver,
      functools.partial(_problems, id, driver, success, ahead, tolerance), success, budget,
      (f"a seed's start; the goal is where {ahead} smoothed random actions lead; solved ones left out",
       told if tolerance else "as the environment tells"))


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


def _driver(id: str, args: Mapping[str, Any], low: np.ndarray, high: np.ndarray, pictured: bool,
            size: tuple[int, int]) -> Driver:
  """Of an environment with limits of actions, f32 of their shape."""
  drawn = {} if pictured else dict(render_mode="rgb_array")

  def step(env, action):
    observation, _, terminated, truncated, info = env.step(np.clip(action.reshape(low.shape), low, high))
    return observation, bool(_told(info)), bool(terminated or truncated)

  def image(env, observation):
    return resized(_picture(observation) if pictured else env.render(), size)

  return Driver(lambda: gym().make(id, disable_env_checker=True, **drawn, **args),
                lambda env, seed, state: env.reset(seed=seed)[0], step, image,
                lambda env, observation: _vector(observation),
                lambda rng: smooth(rng, low.reshape(-1), high.reshape(-1)))


# ---- problems ----

def _success(id: str, tolerance: float, says: bool, states: np.ndarray, goals: np.ndarray, told):
  """bool [...], of states and goals [... P]."""
  if not (tolerance or says):
    raise ValueError(f"{id} says neither is_success nor success in its info; give tolerance, the distance of "
                     "its state from the goal's that counts as success (--world_set=tolerance=...)")
  return np.linalg.norm(states - goals, axis=-1) < tolerance if tolerance else told


def _problem(driver: Driver, env, seed: int, i: int, ahead: int) -> tuple[Problem, np.ndarray]:
  """The i-th by `seed`, and the state [P] of its start."""
  draws = generator(seed, i)
  start = int(draws.integers(2**31))
  observation, act, actions, over = driver.start(env, start, ()), driver.behave(draws), [], False
  first = driver.state(env, observation)
  while not over and len(actions) < ahead:
    actions.append(act(driver.state(env, observation)))
    observation, _, over = driver.step(env, actions[-1])
  actions += [np.zeros_like(actions[0])] * (ahead - len(actions))
  goal = Seen(driver.image(env, observation), driver.state(env, observation))
  return Problem(np.int32(start), np.zeros(0, np.float32), goal, np.stack(actions)), first


def _problems(id: str, driver: Driver, success: Callable, ahead: int, tolerance: float, seed: int,
              count: int) -> tuple[Problem, dict[str, Any]]:
  """As HostWorld.problems."""
  env, found, solved = driver.open(), [], 0
  while len(found) < count:
    asked, first = _problem(driver, env, seed, len(found) + solved, ahead)
    if tolerance and success(first, asked.goal.state, False):
      solved += 1
      if solved > 100 * count:
        raise ValueError(f"{id}: {ahead} actions lead nowhere that is not within {tolerance} of the start; "
                         "lower tolerance or raise ahead")
    else:
      found.append(asked)
  env.close()
  return stack(found), {"candidates": count + solved, "left_out_since_solved": solved}


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
    raise RuntimeError(f"{name} cannot be imported ({error}); it is optional: pip install "
                       f"{install}") from error


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
    raise ValueError(f"{id} observes {env.observation_space} and renders {list(modes)}; a picture is needed: "
                     f"an observation uint8 [H W C], one of its entries {', '.join(PICTURES)}, or "
                     "\"rgb_array\"")
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
  if _picture(observation) is not None:
    return np.zeros(0, np.float32)
  return np.ravel(observation).astype(np.float32)
