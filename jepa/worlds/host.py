"""What a world on the host is: environments that are stepped one by one, in one process.

A `HostWorld` is no pure function, so it is no `World`; jepa/planning/hosts.py plans on the device for many
episodes at once and steps them here. A `Driver` says how one environment is driven, `Batch` drives several in
step.

Shape letters: N episodes, A numbers in an action, P numbers in a state, T steps, H W C image.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jepa.worlds.world import Actions


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


Policy = Callable[[np.ndarray], np.ndarray]                   # state [P] -> action [A]


class Driver(NamedTuple):
  """How one environment is driven."""

  open: Callable[[], Any]                                     # () -> env
  start: Callable[[Any, int, np.ndarray], Any]                # (env, seed, state [P] or [0]) -> observation
  step: Callable[[Any, np.ndarray], tuple[Any, bool, bool]]   # (env, action [A]) -> observation, whether the
                                                              # environment tells success, whether it is over
  image: Callable[[Any, Any], np.ndarray]                     # (env, observation) -> uint8 [H W C]
  state: Callable[[Any, Any], np.ndarray]                     # (env, observation) -> f32 [P]
  behave: Callable[[np.random.Generator], Policy]             # what training data are made of: an episode's


class HostWorld(NamedTuple):
  """An environment with its protocol."""

  name: str
  version: int
  actions: Actions                  # of one step of the environment
  image: tuple[int, int, int]       # H W C
  driver: Driver
  # (seed, count N) -> problems, of which the first are the same for any count; facts
  problems: Callable[[int, int], tuple[Problem, dict[str, Any]]]
  # (states [N P], the goals' [N P], told bool [N]) -> bool [N]
  success: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
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


# ---- what these worlds share ----

def stack(problems: Sequence[Problem]) -> Problem:
  """Problems, each field with a leading N."""
  each = [(p.seed, p.start, *p.goal, p.actions) for p in problems]
  seed, start, image, state, actions = (np.stack(x) for x in zip(*each))
  return Problem(seed, start, Seen(image, state), actions)


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
