"""The Wall of DINO-WM (arXiv 2411.04983): Two Rooms with a wall of 7 pixels, a larger dot, two pixels a unit
of action, and coloured pictures.

The released pictures are enlarged to 224 pixels, and nothing bounds its actions: the limit, the budget of
steps and the training actions here are those of Two Rooms.
"""
from jepa.worlds import two_rooms
from jepa.worlds.world import World


def make(*, random: bool = False, wall: int = 32, door: int = 30, crossing: float = 0.35) -> World:
  """Wall; its layout is fixed where it is not `random`. See two_rooms.make for the arguments."""
  world = two_rooms.make(random=random, wall=wall, door=door, half_wall=3, dot=1.7, gain=2.0,
                         crossing=crossing, colour=True)
  return world._replace(name="wall")
