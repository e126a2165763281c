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
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.worlds import dots
from jepa.worlds.dots import FAR, Boxes
from jepa.worlds.world import Actions, World, clip

VERSION = 1                         # of everything below and in dots.py
SIZE = 65                           # pixels a side
PIXEL = np.arange(SIZE, dtype=np.float32)
BORDER = (4, 60)
WALLS, DOORS = (20, 44), (10, 54)   # where a drawn wall and door may be, inclusive
MARGIN = 0.01                       # pixels; a thousand times what f32 rounds off
LOW, HIGH = BORDER[0] + MARGIN, BORDER[1] - MARGIN
REACHED = 4.5                       # pixels from the goal that count as success
JAMB = 6.0                          # pixels, see `jambs`


class State(NamedTuple):
  position: jax.Array               # f32 [2] x, y
  wall: jax.Array                   # f32 [], x
  door: jax.Array                   # f32 [], y


class Rooms(NamedTuple):
  """The arguments of `make`, `limit` as what an action may be."""

  actions: Actions
  random: bool
  wall: int
  door: int
  half_wall: int
  half_door: int
  dot: float
  gain: float
  crossing: float
  aimed: float
  jambs: float
  fast: float
  colour: bool


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
    fast: share whose steps are uniform in length up to `limit`, as a planner's may be; those of the others
      are 1.8 pixels at most, as published.
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
                     f"fast = {fast}; half_wall is in 1 .. 8, half_door in 2 .. 5, crossing + aimed, jambs "
                     "and fast in [0, 1], the others are positive")
  actions = Actions(np.full(2, -limit, np.float32), np.full(2, limit, np.float32), limit)
  rooms = Rooms(actions, random, wall, door, half_wall, half_door, dot, gain, crossing, aimed, jambs, fast,
                colour)
  of = lambda function: functools.partial(function, rooms)
  image = (SIZE, SIZE, 3 if colour else 2)
  return World("two_rooms", VERSION, actions, image, of(reset), of(step), of(render),
               lambda state: state.position, of(problem), success, of(behave), of(controller), budget=200)


def layout(rooms: Rooms, key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """x of a wall and y of its door."""
  if not rooms.random:
    return jnp.float32(rooms.wall), jnp.float32(rooms.door)
  draw = lambda k, span: jax.random.randint(k, (), span[0], span[1] + 1).astype(jnp.float32)
  k_wall, k_door = jax.random.split(key)
  return draw(k_wall, WALLS), draw(k_door, DOORS)


def boxes(rooms: Rooms, state: State) -> Boxes:
  """The wall's two parts, and what lies beyond the border."""
  thick, open_ = rooms.half_wall + MARGIN, rooms.half_door - MARGIN
  left, right, top, bottom = state.wall - thick, state.wall + thick, state.door - open_, state.door + open_
  rows = [(left, -FAR, right, top), (left, bottom, right, FAR),
          (-FAR, -FAR, LOW, FAR), (HIGH, -FAR, FAR, FAR), (-FAR, -FAR, FAR, LOW), (-FAR, HIGH, FAR, FAR)]
  each = jnp.stack([jnp.stack([jnp.float32(v) for v in row]) for row in rows])
  return Boxes(each[:, :2], each[:, 2:])


def reset(rooms: Rooms, key: jax.Array) -> State:
  """Uniform over the floor, and what falls into the wall over one of the rooms (as published)."""
  thick = rooms.half_wall + MARGIN
  k_layout, k_place, k_room, k_again = jax.random.split(key, 4)
  x_wall, y_door = layout(rooms, k_layout)
  place = jax.random.uniform(k_place, (2,), minval=LOW, maxval=HIGH)
  state = State(jnp.clip(place, LOW, HIGH), x_wall, y_door)
  left = jax.random.bernoulli(k_room)
  x = jax.random.uniform(k_again, (), minval=jnp.where(left, LOW, x_wall + thick),
                         maxval=jnp.where(left, x_wall - thick, HIGH))
  walled = dots.inside(state.position, boxes(rooms, state)).any()
  return state._replace(position=jnp.where(walled, state.position.at[0].set(x), state.position))


def step(rooms: Rooms, state: State, action: jax.Array) -> State:
  move = rooms.gain * clip(rooms.actions, action)
  return state._replace(position=dots.move(state.position, move, boxes(rooms, state)))


def render(rooms: Rooms, state: State) -> jax.Array:
  spot = (255 * dots.blob(state.position, PIXEL, rooms.dot)).astype(jnp.uint8)
  x, y = PIXEL, PIXEL[:, None]
  solid = (jnp.abs(x - state.wall) <= rooms.half_wall) & (jnp.abs(y - state.door) > rooms.half_door)
  line = (PIXEL == BORDER[0]) | (PIXEL == BORDER[1])
  solid = solid | line | line[:, None]
  if not rooms.colour:
    return jnp.stack([spot, jnp.where(solid, jnp.uint8(255), jnp.uint8(0))], -1)
  ground = jnp.where(solid, jnp.uint8(0), jnp.uint8(255))
  rest = jnp.where(solid, jnp.uint8(0), 255 - spot)
  return jnp.stack([ground, rest, rest], -1)


def problem(rooms: Rooms, key: jax.Array) -> tuple[State, State]:
  """Start and goal uniform in opposite rooms, two deviations of the blob off every wall."""
  dot, half_wall = rooms.dot, rooms.half_wall
  k_layout, k_places, k_flip = jax.random.split(key, 3)
  x_wall, y_door = layout(rooms, k_layout)
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


def success(state: State, goal: State) -> jax.Array:
  return jnp.linalg.norm(state.position - goal.position) < REACHED


def controller(rooms: Rooms, state: State, goal: State) -> jax.Array:
  return dots.straight(state.position, goal.position, rooms.gain * rooms.actions.norm) / rooms.gain


# ---- training actions ----

def behave(rooms: Rooms, key: jax.Array, state: State, length: int) -> jax.Array:
  """f32 [length 2]: led through the door, aimed at a point of the other room, or wandering; see `make`."""
  k_led, k_height, k_heading, k_turn, k_length = jax.random.split(key, 5)
  share = jax.random.uniform(k_led)
  led, aims = share < rooms.crossing, share >= 1 - rooms.aimed
  side = jnp.where(state.position[0] < state.wall, 1.0, -1.0)      # towards the other room
  level = rooms.half_door - 1.0
  height = state.door + 1.4 * jax.random.truncated_normal(k_height, -level / 1.4, level / 1.4)
  mouth = rooms.half_wall + 2.0                                    # from the middle of the wall
  target = aim(rooms, jax.random.fold_in(key, 5), state, side)

  def one(carry, drawn):
    state, heading, led = carry
    turn, stride = drawn
    x, y = state.position
    ahead = state.wall + side * jnp.where(jnp.abs(y - state.door) <= level, mouth, -mouth)
    way = jnp.where(led, jnp.stack([ahead - x, height - y]), target - state.position)
    heading = jnp.where(led | aims, jnp.arctan2(way[1], way[0]), heading) + turn
    action = clip(rooms.actions, dots.vector(heading, stride))
    state = step(rooms, state, action)
    led = led & (side * (state.position[0] - state.wall) < mouth)
    return (state, heading, led), action

  heading = jax.random.uniform(k_heading, (), minval=-jnp.pi, maxval=jnp.pi)
  strides = dots.lengths(k_length, (length,))
  if rooms.fast:
    k_fast, k_stride = jax.random.split(jax.random.fold_in(key, 6))
    strides = jnp.where(jax.random.uniform(k_fast) < rooms.fast,
                        rooms.actions.norm * jax.random.uniform(k_stride, (length,)), strides)
  drawn = dots.turns(k_turn, (length,)), strides
  return jax.lax.scan(one, (state, heading, led), drawn)[1]


def aim(rooms: Rooms, key: jax.Array, state: State, side: jax.Array) -> jax.Array:
  """f32 [2]: a point of the other room, which lies to `side` (1 or -1); a share `jambs` of them such that the
  straight way there meets the wall near the door."""
  x, y = jax.random.uniform(key, (2,), minval=LOW, maxval=HIGH)
  beyond = side * (x - state.wall) > 0
  x = jnp.where(beyond, x, jnp.clip(2 * state.wall - x, LOW, HIGH))
  if rooms.jambs:
    k_share, k_meet = jax.random.split(jax.random.fold_in(key, 1))
    meet = state.door + JAMB * jax.random.normal(k_meet)
    stretch = (x - state.position[0]) / jnp.where(side * (state.wall - state.position[0]) > 0,
                                                  state.wall - state.position[0], side)
    y = jnp.where(jax.random.uniform(k_share) < rooms.jambs,
                  state.position[1] + stretch * (meet - state.position[1]), y)
  return jnp.stack([x, y])
