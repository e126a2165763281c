"""Worlds to plan in: `make(name, **args) -> World`. They run on the device, jitted and vmapped.

  two_rooms  a dot in two rooms with a door between them (jepa/worlds/two_rooms.py)
  wall       the same with a thicker wall, a larger dot and coloured pictures, as DINO-WM has it
  maze       a dot in a maze that is drawn for every layout (jepa/worlds/maze.py)
  pusht      a disc that pushes a T (jepa/worlds/pusht.py)

`python -m jepa.worlds` times them.
"""
import difflib
import inspect

from jepa.worlds import maze, pusht, two_rooms
from jepa.worlds.world import Actions, State, World, clip, rollout

__all__ = ["Actions", "State", "World", "clip", "make", "rollout", "WORLDS"]

WORLDS = {"two_rooms": two_rooms.make, "wall": two_rooms.wall, "maze": maze.make, "pusht": pusht.make}


def make(name: str, /, **args) -> World:
  """A world by name.

  Raises:
    ValueError: unknown world or argument, with a suggestion; and what the world itself raises.
  """
  if name not in WORLDS:
    raise ValueError(f"unknown world {name!r}{_hint(name, WORLDS)} Known: {', '.join(WORLDS)}")
  known = inspect.signature(WORLDS[name]).parameters
  for key in args:
    if key not in known:
      raise ValueError(f"world {name!r} has no argument {key!r}{_hint(key, known)} Arguments: "
                       f"{', '.join(known) or 'none'}")
  return WORLDS[name](**args)


def _hint(word: str, known) -> str:
  close = difflib.get_close_matches(word, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else "."
