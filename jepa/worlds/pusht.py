"""PushT: a disc pushes a T over a table (Diffusion Policy, arXiv 2303.04137), quasi-statically.

Geometry, frame, observation and start as in gym-pusht: 512 x 512, x right and y down; a disc of radius 15; a
T whose bar is 120 x 30 and whose stem is 30 x 90. The T's position is the middle of the bar's outer edge, its
angle turns x towards y, and it turns about its centre (0, 45).

What moves the T. gym-pusht removes every velocity of the block before each of its steps and knows no friction
at contacts, so that an impulse J along the contact normal n at the arm r from the centre moves it by J n / m
and turns it by J (r x n) / I. That is a quasi-static push with an ellipsoidal limit surface of characteristic
length c, c^2 = I / m = 3000 px^2. Here the T is moved by just as much of it as ends the overlap d:
    centre += d n / (1 + (r x n)^2 / c^2),    angle += d (r x n) / (c^2 + (r x n)^2),
for bar, stem and the corner farthest over the border in turn, `SWEEPS` times for each of `SUBSTEPS` parts of
the disc's way; then the T is shifted to where all of it is within the border.
What overlap is left, because the T is stuck at the border, the disc gives way to. A part that cannot be
resolved does not happen, so that no state has an overlap of more than `TOLERANCE`.

What differs from gym-pusht: nothing has a velocity. The disc does not follow its target as a damped spring of
rates 100 and 20 does, but goes half of the way in each step, which is what that spring does in a tenth of a
second when the target keeps its distance. Actions are relative, as in DINO-WM (arXiv 2411.04983): the target
is 100 pixels a unit away. The disc stops at the border, as the T does. No target zone is drawn: a goal is a
state.

Shape letters: V corners, S pixels a side, T steps.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.worlds.world import Actions, World, clip

VERSION = 1                         # of everything below
FRAME = 512.0
RADIUS = 15.0                       # of the disc
BORDER = (7.0, 504.0)               # the inner faces of the walls
LOW, HIGH = BORDER[0] + RADIUS, BORDER[1] - RADIUS      # where the disc's centre may be
CENTRE = (0.0, 45.0)                # of the T, in its own frame
RECTANGLES = (((0.0, 15.0), (60.0, 15.0)),       # bar: middle and half sides
              ((0.0, 60.0), (15.0, 60.0)))       # stem, up to the bar's outer edge: no seam between the two
CORNERS = ((-60.0, 0.0), (60.0, 0.0), (60.0, 30.0), (-60.0, 30.0), (15.0, 120.0), (-15.0, 120.0))
LENGTH2 = 3000.0                    # px^2, c^2 above
REACH = 50.0                        # pixels that the disc goes for a unit of action: half of 100
ACTIONS = Actions(np.full(2, -1, np.float32), np.full(2, 1, np.float32))
SUBSTEPS, SWEEPS = 10, 4
TOLERANCE = 0.05                    # pixels
COLOURS = dict(ground=(255, 255, 255), border=(211, 211, 211), block=(119, 136, 153), agent=(65, 105, 225))


class State(NamedTuple):
  agent: jax.Array                  # f32 [2] x, y of the disc
  block: jax.Array                  # f32 [2] x, y of the T
  angle: jax.Array                  # f32 [] radians, not wrapped


class Canvas(NamedTuple):
  """Of a picture."""

  scale: float                      # of the table's pixels in one of the picture
  pixel: np.ndarray                 # f32 [S], their centres
  ring: np.ndarray                  # f32 [S S], the share of each that the border covers


def make(*, size: int = 96, ahead: int = 25) -> World:
  """PushT, native.

  Args:
    size: S, of the pictures, in pixels.
    ahead: training actions between a start and the goal of a problem, as in LeWM's protocol.

  Success: disc and T together, as one vector of four numbers, within 20 pixels of the goal, and the angle
  within pi / 9.

  Training actions: every 8 steps the disc takes a new target, three times in four a point within 40 pixels of
  the T's centre, otherwise anywhere; it walks there by 5 to 25 pixels a step, drawn with the target, and 2
  pixels of noise.

  Raises:
    ValueError: sizes that are not positive.
  """
  if size < 8 or ahead < 1:
    raise ValueError(f"pusht: size = {size}, ahead = {ahead}; pictures have at least 8 pixels a side, and a "
                     "goal is at least 1 step ahead")
  scale = FRAME / size
  pixel = (np.arange(size, dtype=np.float32) + 0.5) * scale
  line = np.clip(0.5 + np.minimum(pixel - BORDER[0] + 4, BORDER[0] - pixel) / scale, 0, 1)
  line = np.maximum(line, line[::-1])
  canvas = Canvas(scale, pixel, np.maximum(line, line[:, None]))
  return World("pusht", VERSION, ACTIONS, (size, size, 3), reset, step, functools.partial(render, canvas),
               position, functools.partial(problem, ahead), success, behave, controller, budget=50)


def reset(key: jax.Array) -> State:
  """As published, and then without overlap: disc in 50 .. 450, T in 100 .. 400, any angle."""
  k_agent, k_block, k_angle = jax.random.split(key, 3)
  block = jax.random.uniform(k_block, (2,), minval=100, maxval=400)
  angle = jax.random.uniform(k_angle, (), minval=-jnp.pi, maxval=jnp.pi)
  centre = _enclosed(block + _turn(angle, CENTRE), angle)
  drawn = jax.random.uniform(k_agent, (8, 2), minval=50, maxval=450)
  gap = jax.vmap(lambda p: _gap(p, centre, angle))(drawn)
  return State(drawn[jnp.where((gap > 0).any(), jnp.argmax(gap > 0), jnp.argmax(gap))],
               centre - _turn(angle, CENTRE), angle)


def step(state: State, action: jax.Array) -> State:
  way = jnp.clip(state.agent + REACH * clip(ACTIONS, action), LOW, HIGH) - state.agent
  return jax.lax.scan(lambda s, _: (_part(s, way), None), state, length=SUBSTEPS)[0]


def render(canvas: Canvas, state: State) -> jax.Array:
  """Shapes cover a pixel by their signed distance from its centre, so that every motion shows."""
  scale, pixel, ring = canvas
  cover = lambda distance: jnp.clip(0.5 - distance / scale, 0.0, 1.0)
  dx, dy = pixel - state.block[0], pixel[:, None] - state.block[1]
  cos, sin = jnp.cos(state.angle), jnp.sin(state.angle)
  x, y = cos * dx + sin * dy, cos * dy - sin * dx                           # [S S], in the T's frame
  block = jnp.maximum(*(cover(jnp.maximum(jnp.abs(x - mx) - hx, jnp.abs(y - my) - hy))
                        for (mx, my), (hx, hy) in RECTANGLES))
  dx, dy = pixel - state.agent[0], pixel[:, None] - state.agent[1]
  disc = cover(jnp.sqrt(dx * dx + dy * dy) - RADIUS)

  def channel(ground, border, t, agent):
    value = (ground + ring * (border - ground)).astype(np.float32)
    value = value + block * (t - value)
    return jnp.round(value + disc * (agent - value)).astype(jnp.uint8)

  return jnp.stack([channel(*levels) for levels in zip(*COLOURS.values())], -1)


def position(state: State) -> jax.Array:
  return jnp.concatenate([state.agent, state.block, (state.angle % (2 * jnp.pi))[None]])


def behave(key: jax.Array, state: State, length: int) -> jax.Array:
  """f32 [length 2], see `make`."""
  def one(carry, drawn):
    state, target, pace = carry
    t, k = drawn
    k_near, k_kind, k_any, k_pace, k_noise = jax.random.split(k, 5)
    u = jax.random.uniform(k_near, (2,))
    near = (state.block + _turn(state.angle, CENTRE)
            + 40 * jnp.sqrt(u[0]) * _turn(2 * jnp.pi * u[1], (1.0, 0.0)))
    anywhere = jax.random.uniform(k_any, (2,), minval=LOW, maxval=HIGH)
    fresh = jnp.where(jax.random.bernoulli(k_kind, 0.75), near, anywhere)
    target = jnp.where(t % 8 == 0, fresh, target)
    pace = jnp.where(t % 8 == 0, jax.random.uniform(k_pace, minval=5, maxval=25), pace)
    way = target - state.agent
    way = way * jnp.minimum(1.0, pace / jnp.maximum(jnp.linalg.norm(way), 1e-6))
    action = clip(ACTIONS, (way + 2 * jax.random.normal(k_noise, (2,))) / REACH)
    return (step(state, action), target, pace), action

  drawn = jnp.arange(length), jax.random.split(key, length)
  return jax.lax.scan(one, (state, state.agent, jnp.float32(0)), drawn)[1]


def problem(ahead: int, key: jax.Array) -> tuple[State, State]:
  """A start, and the state that `ahead` training actions lead to."""
  k_start, k_behave = jax.random.split(key)
  start = reset(k_start)
  goal, _ = jax.lax.scan(lambda s, a: (step(s, a), None), start, behave(k_behave, start, ahead))
  return start, goal


def success(state: State, goal: State) -> jax.Array:
  places = jnp.concatenate([state.agent - goal.agent, state.block - goal.block])
  turned = jnp.abs((state.angle - goal.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi)
  return (jnp.linalg.norm(places) < 20) & (turned < math.pi / 9)


def controller(state: State, goal: State) -> jax.Array:
  """Takes the disc to where it is at the goal; the T is not its business."""
  return clip(ACTIONS, (goal.agent - state.agent) / REACH)


def overlap(state: State) -> jax.Array:
  """f32 []: by how many pixels disc and T overlap; negative: the gap between them."""
  return -_gap(state.agent, state.block + _turn(state.angle, CENTRE), state.angle)


# ---- geometry ----

def _part(s: State, way: jax.Array) -> State:
  """After one of `SUBSTEPS` parts of the disc's way [2]."""
  agent = jnp.clip(s.agent + way / SUBSTEPS, LOW, HIGH)
  centre, angle = s.block + _turn(s.angle, CENTRE), s.angle

  def sweep(_, pose):
    for rectangle in RECTANGLES:
      pose = _pushed(agent, *pose, rectangle)
    return _held(*pose)

  touched = _gap(agent, centre, angle) < 0
  centre, angle = jax.lax.fori_loop(0, SWEEPS, sweep, (centre, angle))
  centre = _enclosed(centre, angle)
  for _ in range(2):
    for rectangle in RECTANGLES:
      agent = _given_way(agent, centre, angle, rectangle)
  agent = jnp.clip(agent, LOW, HIGH)
  moved = State(agent, jnp.where(touched, centre - _turn(angle, CENTRE), s.block),
                jnp.where(touched, angle, s.angle))
  fits = _gap(agent, centre, angle) > -TOLERANCE
  return jax.tree.map(lambda new, old: jnp.where(fits, new, old), moved, s)


def _turn(angle, v) -> jax.Array:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([cos * v[0] - sin * v[1], sin * v[0] + cos * v[1]])


def _nearest(point, centre, angle, rectangle) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of a rectangle of the T about `centre` and a point of the table: signed distance [], the normal [2] out
  of the rectangle and the nearest point [2] from the T's centre, both in its own frame."""
  (mx, my), (hx, hy) = rectangle
  half = np.float32([hx, hy])
  to_centre = np.float32([mx - CENTRE[0], my - CENTRE[1]])
  p = _turn(-angle, point - centre) - to_centre
  sign = jnp.where(p < 0, -1.0, 1.0)
  excess = jnp.abs(p) - half
  out = jnp.maximum(excess, 0.0)
  length = jnp.sqrt(jnp.maximum(jnp.square(out).sum(), 1e-12))
  outside = (excess > 0).any()
  inner = jnp.where(excess[0] > excess[1], jnp.float32([1, 0]), jnp.float32([0, 1]))
  normal = sign * jnp.where(outside, out / length, inner)
  distance = jnp.where(outside, length, excess.max())
  return distance, normal, p + to_centre - distance * normal


def _gap(agent, centre, angle) -> jax.Array:
  return jnp.minimum(*(_nearest(agent, centre, angle, r)[0] for r in RECTANGLES)) - RADIUS


def _push(centre, angle, arm, normal, depth) -> tuple[jax.Array, jax.Array]:
  """The T moved so that its point at `arm` from the centre goes by `depth` along `normal`, all of the
  table's frame: the limit surface of the module's docstring."""
  lever = arm[0] * normal[1] - arm[1] * normal[0]
  share = depth / (LENGTH2 + lever * lever)
  return centre + LENGTH2 * share * normal, angle + lever * share


def _pushed(agent, centre, angle, rectangle):
  distance, normal, arm = _nearest(agent, centre, angle, rectangle)
  return _push(centre, angle, _turn(angle, arm), -_turn(angle, normal), jnp.maximum(RADIUS - distance, 0.0))


def _given_way(agent, centre, angle, rectangle) -> jax.Array:
  distance, normal, _ = _nearest(agent, centre, angle, rectangle)
  return agent + jnp.maximum(RADIUS - distance, 0.0) * _turn(angle, normal)


def _corners(angle) -> jax.Array:
  """f32 [V 2] from the centre, in the table's frame."""
  return _turn(angle, (np.float32(CORNERS) - np.float32(CENTRE)).T).T


def _held(centre, angle):
  """The T pushed back at the corner that is farthest into a wall."""
  corner = _corners(angle)
  depth = jnp.concatenate([BORDER[0] - centre - corner, centre + corner - BORDER[1]], 1)       # [V 4]
  worst = jnp.argmax(depth)
  normal = jnp.float32([(1, 0), (0, 1), (-1, 0), (0, -1)])[worst % 4]
  return _push(centre, angle, corner[worst // 4], normal, jnp.maximum(depth.max(), 0.0))


def _enclosed(centre, angle) -> jax.Array:
  """The centre [2] moved so that every corner is within the border."""
  corner = _corners(angle)
  return jnp.clip(centre, BORDER[0] - corner.min(0), BORDER[1] - corner.max(0))
