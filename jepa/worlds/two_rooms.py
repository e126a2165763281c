"""Two Rooms: a dot in two rooms, and a wall with a door between them (after PLDM, arXiv 2502.14819).

Coordinates are (x, y) in pixels, y down; the centre of pixel i is at i. The border's lines are at 4 and 60.
The wall fills x within `half_wall` of `wall`, its door |y - door| <= `half_door`. A step is
position + gain * action; a segment that meets the border, the wall or an edge of the door stops there.

The released environment keeps a stopped dot off the wall by noise of a third to half a pixel. Ours draws
nothing and stops `MARGIN` short of every wall: it never crosses one, and a later step away from it is free,
while one into it, however oblique, ends where it began. In the released training data a blocked dot stays
where it was; here data and evaluation share one law. Pictures may differ from the released ones by a level,
since the blob is a product of two exponentials.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.worlds import dots
from jepa.worlds.dots import FAR, Boxes
from jepa.worlds.world import Actions, World, clip

VERSION = 1                         # of everything below and in dots.py
SIZE = 65                           # pixels a side
BORDER = (4, 60)
WALLS, DOORS = (20, 44), (10, 54)   # where a drawn wall and door may be, inclusive
MARGIN = 0.01                       # pixels; a thousand times what f32 rounds off
REACHED = 4.5                       # pixels from the goal that count as success
JAMB = 6.0                          # pixels, see `jambs`


class State(NamedTuple):
  position: jax.Array               # f32 [2] x, y
  wall: jax.Array                   # f32 [], x
  door: jax.Array                   # f32 [], y


def make(*, random: bool = False, wall: int = 32, door: int = 18, half_wall: int = 1, half_door: int = 4,
         dot: float = 1.3, gain: float = 1.0, limit: float = 2.45, crossing: float = 0.35,
         aimed: float = 0.0, jambs: float = 0.0, fast: float = 0.0, colour: bool = False) -> World:
  """Two Rooms.

  Args:
    random: draw wall and door for each layout, uniform over the integers of `WALLS` and `DOORS`; otherwise
      they are at `wall` and `door`.
    half_wall, half_door: half the thickness of the wall and half the width of the door, in pixels; pictures
      have 2 half + 1 of them.
    dot: standard deviation of the blob, in pixels.
    gain: pixels a unit of action. limit: the largest length of an action.
    crossing: share of training trajectories that are led through the door, see below.
    aimed: share that walk straight to a point drawn in the other room, so that most of them press against the
      wall between; 0 as published. What neither share takes wanders.
    jambs: share of the aimed ones whose line meets the wall near the door, at a height about its middle with
      deviation `JAMB`: whether it passes or not is what a model is worst at.
    fast: share whose steps are uniform in length up to `limit`, as a planner's may be; those of the others are 1.8
      pixels at most, as published.
    colour: pictures of three channels, a red dot and black walls on white; otherwise of two: dot, walls.

  Training actions: headings and lengths as in `dots`, the first heading uniform. The released data makes 35 %
  of the trajectories cross by drawing the point and time of the crossing and walking away from it in both
  directions. Here the start is given, so that such a trajectory walks there: each heading is the direction to
  the near mouth of the door, or once level with it to the far one, plus a turn; the height at which it
  passes is a truncated normal of deviation 1.4 pixels about the middle. From the far mouth on it wanders as
  the others do.

  Raises:
    ValueError: a wall or door outside its range, or sizes that are not positive.
  """
  if not (WALLS[0] <= wall <= WALLS[1] and DOORS[0] <= door <= DOORS[1]):
    raise ValueError(f"two_rooms: wall = {wall}, door = {door}; wall is in {WALLS[0]} .. {WALLS[1]}, "
                     f"door in {DOORS[0]} .. {DOORS[1]}")
  if not (0 < half_wall <= 8 and 1 < half_door <= 5 and dot > 0 and gain > 0 and limit > 0
          and 0 <= crossing and 0 <= aimed and crossing + aimed <= 1
          and 0 <= jambs <= 1 and 0 <= fast <= 1):
    raise ValueError(f"two_rooms: half_wall = {half_wall}, half_door = {half_door}, dot = {dot}, gain = "
                     f"{gain}, limit = {limit}, crossing = {crossing}, aimed = {aimed}, jambs = {jambs}, "
                     f"fast = {fast}; half_wall is in 1 .. 8, half_door in 2 .. 5, crossing + aimed, jambs and "
                     "fast in [0, 1], the others are positive")
  actions = Actions(np.full(2, -limit, np.float32), np.full(2, limit, np.float32), limit)
  low, high = BORDER[0] + MARGIN, BORDER[1] - MARGIN
  thick, open_ = half_wall + MARGIN, half_door - MARGIN
  pixel = np.arange(SIZE, dtype=np.float32)

  def layout(key):
    if not random:
      return jnp.float32(wall), jnp.float32(door)
    draw = lambda k, span: jax.random.randint(k, (), span[0], span[1] + 1).astype(jnp.float32)
    k_wall, k_door = jax.random.split(key)
    return draw(k_wall, WALLS), draw(k_door, DOORS)

  def boxes(state):
    left, right, top, bottom = (state.wall - thick, state.wall + thick, state.door - open_,
                                state.door + open_)
    rows = [(left, -FAR, right, top), (left, bottom, right, FAR),
            (-FAR, -FAR, low, FAR), (high, -FAR, FAR, FAR), (-FAR, -FAR, FAR, low), (-FAR, high, FAR, FAR)]
    each = jnp.stack([jnp.stack([jnp.float32(v) for v in row]) for row in rows])
    return Boxes(each[:, :2], each[:, 2:])

  def reset(key):
    """Uniform over the floor, and what falls into the wall over one of the rooms (as published)."""
    k_layout, k_place, k_room, k_again = jax.random.split(key, 4)
    x_wall, y_door = layout(k_layout)
    place = jax.random.uniform(k_place, (2,), minval=low, maxval=high)
    state = State(jnp.clip(place, low, high), x_wall, y_door)
    left = jax.random.bernoulli(k_room)
    x = jax.random.uniform(k_again, (), minval=jnp.where(left, low, x_wall + thick),
                           maxval=jnp.where(left, x_wall - thick, high))
    walled = dots.inside(state.position, boxes(state)).any()
    return state._replace(position=jnp.where(walled, state.position.at[0].set(x), state.position))

  def step(state, action):
    move = gain * clip(actions, action)
    return state._replace(position=dots.move(state.position, move, boxes(state)))

  def render(state):
    spot = (255 * dots.blob(state.position, pixel, dot)).astype(jnp.uint8)
    x, y = pixel, pixel[:, None]
    solid = (jnp.abs(x - state.wall) <= half_wall) & (jnp.abs(y - state.door) > half_door)
    line = (pixel == BORDER[0]) | (pixel == BORDER[1])
    solid = solid | line | line[:, None]
    if not colour:
      return jnp.stack([spot, jnp.where(solid, jnp.uint8(255), jnp.uint8(0))], -1)
    ground = jnp.where(solid, jnp.uint8(0), jnp.uint8(255))
    rest = jnp.where(solid, jnp.uint8(0), 255 - spot)
    return jnp.stack([ground, rest, rest], -1)

  def problem(key):
    """Start and goal uniform in opposite rooms, two deviations of the blob off every wall."""
    k_layout, k_places, k_flip = jax.random.split(key, 3)
    x_wall, y_door = layout(k_layout)
    near, far = BORDER[0] + 2 * dot, SIZE - 1 - BORDER[0] - 2 * dot
    first = jnp.stack([jnp.float32(near), jnp.float32(near)])
    last = jnp.stack([x_wall - half_wall - 2 * dot, jnp.float32(far)])
    u = jax.random.uniform(k_places, (2, 2))
    left = first + u[0] * (last - first)
    first, last = first.at[0].set(x_wall + half_wall + 2 * dot), last.at[0].set(far)
    right = first + u[1] * (last - first)
    flip = jax.random.bernoulli(k_flip)
    start, goal = jnp.where(flip, right, left), jnp.where(flip, left, right)
    return State(start, x_wall, y_door), State(goal, x_wall, y_door)

  def behave(key, state, length):
    k_led, k_height, k_heading, k_turn, k_length = jax.random.split(key, 5)
    share = jax.random.uniform(k_led)
    led, aims = share < crossing, share >= 1 - aimed
    side = jnp.where(state.position[0] < state.wall, 1.0, -1.0)      # towards the other room
    level = half_door - 1.0
    height = state.door + 1.4 * jax.random.truncated_normal(k_height, -level / 1.4, level / 1.4)
    mouth = half_wall + 2.0                                          # from the middle of the wall

    k_aim = jax.random.fold_in(key, 5)
    x, y = jax.random.uniform(k_aim, (2,), minval=low, maxval=high)
    beyond = side * (x - state.wall) > 0
    x = jnp.where(beyond, x, jnp.clip(2 * state.wall - x, low, high))
    if jambs:
      k_share, k_meet = jax.random.split(jax.random.fold_in(k_aim, 1))
      meet = state.door + JAMB * jax.random.normal(k_meet)
      stretch = (x - state.position[0]) / jnp.where(side * (state.wall - state.position[0]) > 0,
                                                    state.wall - state.position[0], side)
      y = jnp.where(jax.random.uniform(k_share) < jambs, state.position[1] + stretch * (meet - state.position[1]), y)
    aim = jnp.stack([x, y])

    def one(carry, drawn):
      state, heading, led = carry
      turn, stride = drawn
      x, y = state.position
      ahead = state.wall + side * jnp.where(jnp.abs(y - state.door) <= level, mouth, -mouth)
      way = jnp.where(led, jnp.stack([ahead - x, height - y]), aim - state.position)
      heading = jnp.where(led | aims, jnp.arctan2(way[1], way[0]), heading) + turn
      action = clip(actions, dots.vector(heading, stride))
      state = step(state, action)
      led = led & (side * (state.position[0] - state.wall) < mouth)
      return (state, heading, led), action

    heading = jax.random.uniform(k_heading, (), minval=-jnp.pi, maxval=jnp.pi)
    strides = dots.lengths(k_length, (length,))
    if fast:
      k_fast, k_stride = jax.random.split(jax.random.fold_in(key, 6))
      strides = jnp.where(jax.random.uniform(k_fast) < fast,
                          limit * jax.random.uniform(k_stride, (length,)), strides)
    drawn = dots.turns(k_turn, (length,)), strides
    return jax.lax.scan(one, (state, heading, led), drawn)[1]

  def success(state, goal):
    return jnp.linalg.norm(state.position - goal.position) < REACHED

  def controller(state, goal):
    return dots.straight(state.position, goal.position, gain * limit) / gain

  return World("two_rooms", VERSION, actions, (SIZE, SIZE, 3 if colour else 2), reset, step, render,
               lambda state: state.position, problem, success, behave, controller, budget=200)


def wall(*, random: bool = False, wall: int = 32, door: int = 30, crossing: float = 0.35) -> World:
  """The Wall of DINO-WM (arXiv 2411.04983): a wall of 7 pixels, a larger dot, two pixels a unit of action,
  coloured pictures.

  Its layout is fixed. The released pictures are enlarged to 224 pixels, and nothing bounds its actions: the
  limit, the budget of steps and the training actions here are those of Two Rooms. See `make` for the
  arguments.
  """
  world = make(random=random, wall=wall, door=door, half_wall=3, dot=1.7, gain=2.0, crossing=crossing,
               colour=True)
  return world._replace(name="wall")
