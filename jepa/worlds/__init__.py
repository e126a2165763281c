"""Worlds to plan in, one a file. Native ones run on the device, jitted and vmapped; others step on the host.

`jepa/worlds/<name>.py` defines `make(*, ...) -> World`, or `make_hosted(...) -> HostWorld` where it steps on
the host. A dotted name is a file in another repository. `python -m jepa.worlds` times the native ones.
"""
from collections.abc import Callable
import importlib

from jepa import config
from jepa.worlds.host import HostWorld
from jepa.worlds.world import Actions, State, World, clip, rollout, trajectory

__all__ = ["Actions", "HostWorld", "State", "World", "clip", "factory", "hosted", "make", "names",
           "rollout", "trajectory"]


def names(entry: str = "make") -> list[str]:
  """The native worlds; with "make_hosted" those that step on the host."""
  return config.names(__name__, entry)


def hosted(name: str) -> bool:
  """Whether a world steps on the host: its file has `make_hosted`. False for one that does not exist."""
  file = name.partition(":")[0]
  if "." not in file:
    return file in names("make_hosted")
  try:
    return hasattr(importlib.import_module(file), "make_hosted")
  except ModuleNotFoundError:
    return False      # `make` says so


def factory(name: str) -> Callable[..., World | HostWorld]:
  """`make` or `make_hosted` of a world's file.

  Raises:
    ValueError: no such world, with a suggestion.
  """
  entry = "make_hosted" if hosted(name) else "make"
  return getattr(config.module(name.partition(":")[0], __name__, entry), entry)


def make(name: str, /, **args) -> World | HostWorld:
  """A world by name. What follows a colon, as in "gymnasium:CarRacing-v3", is the argument `id` of its file.

  Raises:
    ValueError: unknown world or argument, with a suggestion; and what the world itself raises.
    RuntimeError: what is to be installed.
  """
  function, (_, colon, id) = factory(name), name.partition(":")
  return config.call(function, function.__module__, **args | ({"id": id} if colon else {}))
