"""Mazes: a dot in a maze of N x N cells that is drawn for every layout, on the device.

A layout is a random spanning tree of the grid of cells, the least one under uniform weights (Prim's
algorithm), and some of the walls it leaves are opened, so that there are loops. Every cell can be reached
from every other. The dot is massless, as in Two Rooms: it moves by its action and stops at walls. The point
mazes of PLDM and DINO-WM (arXiv 2502.14819, 2411.04983) differ: a few fixed or drawn maps, a mass that is
pushed by forces, its velocity part of the state.

Coordinates are (x, y) in pixels, y down; pixel i covers i .. i + 1. Walls are `thickness` wide about the
lines of the grid, and there is a post at every crossing of lines, be there a wall or not.

Shape letters: N cells a side, E = 2 N (N-1) edges between cells, S pixels a side, T steps.
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
MARGIN = 0.01                       # pixels from a wall; see two_rooms.py


class State(NamedTuple):
  position: jax.Array               # f32 [2] x, y
  right: jax.Array                  # bool [N N-1], whether (row, column) and (row, column + 1) are joined
  down: jax.Array                   # bool [N-1 N], whether (row, column) and (row + 1, column) are


class Spans(NamedTuple):
  across: np.ndarray                # f32 [N+1 S], the share of each pixel within a wall about a line
  along: np.ndarray                 # f32 [N S], between the walls about two lines


class Maze(NamedTuple):
  """The arguments of `make`, and what follows from them."""

  actions: Actions
  cells: int
  loops: int
  thickness: float
  dot: float
  apart: int
  led: float
  number: int | None
  side: float                       # of a cell, between the middles of its walls
  line: np.ndarray                  # f32 [N+1], middles of walls
  middle: np.ndarray                # f32 [N], of cells
  fixed: Boxes                      # border and inner posts
  between: Boxes                    # the walls between cells [E 2], right ones first
  spans: Spans
  centres: np.ndarray               # f32 [S], of pixels


def make(*, cells: int = 5, loops: int = 2, size: int = 64, thickness: float = 2.0, dot: float = 1.3,
         limit: float = 2.45, apart: int = 0, led: float = 0.5, number: int | None = None) -> World:
  """A world of mazes.

  Args:
    cells: N. loops: walls opened beyond the spanning tree. size: S.
    thickness: of walls, in pixels. dot: standard deviation of the blob, in pixels.
    limit: the largest length of an action, in pixels.
    apart: least number of moves from cell to cell between start and goal of a problem; 0: `cells`.
    led: share of training trajectories that walk through the maze, from cell to cell along shortest paths to
      cells drawn in turn; the others wander as those of Two Rooms do, and turn round where nothing moves.
    number: of the one maze there is; None: a maze is drawn for every layout.

  Success is a distance to the goal under a third of a cell. Starts and goals are within a sixth of a cell's
  side of its middle on both axes, so that no success reaches through a wall.

  Raises:
    ValueError: a maze with no room for its loops or problems, or sizes that do not fit.
  """
  n, apart = cells, apart or cells
  side = (size - thickness) / n if n else 0.0
  if n < 2 or not 0 < thickness <= side / 3 or dot <= 0 or limit <= 0 or not 0 <= led <= 1:
    raise ValueError(f"maze: cells = {cells}, size = {size}, thickness = {thickness}, dot = {dot}, limit = "
                     f"{limit}, led = {led}; at least 2 cells, walls at most a third of a cell, led in "
                     "[0, 1], the others positive")
  if not (0 <= loops <= (n - 1) ** 2 and 0 < apart <= 2 * (n - 1)):
    raise ValueError(f"maze: loops = {loops}, apart = {apart} with cells = {cells}; a tree leaves "
                     f"{(n - 1) ** 2} walls to open, and some layouts have no two cells more than "
                     f"{2 * (n - 1)} moves apart")
  line = (thickness / 2 + side * np.arange(n + 1)).astype(np.float32)
  fixed, between = _boxes(line, thickness / 2 + MARGIN)
  actions = Actions(np.full(2, -limit, np.float32), np.full(2, limit, np.float32), limit)
  maze = Maze(actions, n, loops, thickness, dot, apart, led, number, side, line, (line[:-1] + line[1:]) / 2,
              fixed, between, _coverage(line, thickness / 2, size), np.arange(size, dtype=np.float32) + 0.5)
  of = lambda function: functools.partial(function, maze)
  return World("maze", VERSION, actions, (size, size, 2), of(reset), of(step), of(render),
               lambda state: state.position, of(problem), of(success), of(behave), of(controller), budget=200)


def boxes(maze: Maze, state: State) -> Boxes:
  """Everything solid; where two cells are joined, a box that is far away."""
  fixed, between = maze.fixed, maze.between
  shut = ~jnp.concatenate([state.right.ravel(), state.down.ravel()])[:, None]
  return Boxes(jnp.concatenate([fixed.low, jnp.where(shut, between.low, FAR)]),
               jnp.concatenate([fixed.high, jnp.where(shut, between.high, FAR)]))


def drawn(maze: Maze, key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The layout of a key, or the one there is."""
  key = key if maze.number is None else jax.random.key(maze.number)
  return layout(key, cells=maze.cells, loops=maze.loops)


def reset(maze: Maze, key: jax.Array) -> State:
  """A cell, and a place in it; both uniform."""
  line, half = maze.line, maze.thickness / 2
  low, high = line[0] + half + MARGIN, line[-1] - half - MARGIN
  k_layout, k_cell, k_place = jax.random.split(key, 3)
  right, down = drawn(maze, k_layout)
  cell = jax.random.randint(k_cell, (2,), 0, maze.cells)
  reach = maze.side / 2 - half - MARGIN
  place = jnp.asarray(maze.middle)[cell] + jax.random.uniform(k_place, (2,), minval=-reach, maxval=reach)
  return State(jnp.clip(place, low, high), right, down)


def step(maze: Maze, state: State, action: jax.Array) -> State:
  return state._replace(position=dots.move(state.position, clip(maze.actions, action), boxes(maze, state)))


def render(maze: Maze, state: State) -> jax.Array:
  spans = maze.spans
  spot = dots.blob(state.position, maze.centres, maze.dot)
  shut = lambda joined, axis: jnp.pad(1.0 - joined, [(1, 1) if i == axis else (0, 0) for i in (0, 1)],
                                      constant_values=1.0)
  upright = spans.along.T @ shut(state.right, 1) @ spans.across            # [S S]
  lying = spans.across.T @ shut(state.down, 0) @ spans.along
  post = spans.across.sum(0)
  solid = jnp.minimum(upright + lying + post[:, None] * post, 1.0)
  return (255 * jnp.stack([spot, solid], -1)).astype(jnp.uint8)


def problem(maze: Maze, key: jax.Array) -> tuple[State, State]:
  """Two cells, uniform among the pairs that are at least `apart` moves apart."""
  n, reach = maze.cells, maze.side / 6
  k_layout, k_pair, k_start, k_goal = jax.random.split(key, 4)
  right, down = drawn(maze, k_layout)
  far = (distances(right, down) >= maze.apart).ravel()
  pair = jnp.argmax(jnp.where(far, jax.random.uniform(k_pair, (n**4,), minval=0.5), 0.0))
  place = lambda cell, k: (jnp.asarray(maze.middle)[jnp.stack([cell % n, cell // n])]
                           + jax.random.uniform(k, (2,), minval=-reach, maxval=reach))
  return State(place(pair // n**2, k_start), right, down), State(place(pair % n**2, k_goal), right, down)


def success(maze: Maze, state: State, goal: State) -> jax.Array:
  return jnp.linalg.norm(state.position - goal.position) < maze.side / 3


def controller(maze: Maze, state: State, goal: State) -> jax.Array:
  return dots.straight(state.position, goal.position, maze.actions.norm)


# ---- training actions ----

def behave(maze: Maze, key: jax.Array, state: State, length: int) -> jax.Array:
  """f32 [length 2]: led from cell to cell, or wandering; see `make`."""
  cells = maze.cells**2
  k_led, k_heading, k_turn, k_length, k_cell = jax.random.split(key, 5)
  moves = distances(state.right, state.down)

  def one(carry, drawn):
    state, heading, cell = carry
    turn, stride, other = drawn
    target, there = aim(maze, moves, state, cell)
    way = target - state.position
    heading = jnp.where(follows, jnp.arctan2(way[1], way[0]), heading) + turn
    action = clip(maze.actions, dots.vector(heading, stride))
    after = step(maze, state, action)
    heading = heading + jnp.where((after.position == state.position).all(), jnp.pi, 0.0)
    return (after, heading, jnp.where(there, other, cell)), action

  follows = jax.random.bernoulli(k_led, maze.led)
  heading = jax.random.uniform(k_heading, (), minval=-jnp.pi, maxval=jnp.pi)
  targets = jax.random.randint(k_cell, (length + 1,), 0, cells)
  turns = dots.turns(k_turn, (length,)), dots.lengths(k_length, (length,)), targets[1:]
  return jax.lax.scan(one, (state, heading, targets[0]), turns)[1]


def aim(maze: Maze, moves: jax.Array, state: State, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Where to go, f32 [2], and whether `cell` [] is reached, by the moves [N*N N*N] from cell to cell: the
  middle of the joined cell that is nearest to it, or of the cell one is in, if it is that one or the way out
  of it is not yet straight ahead."""
  n, middle = maze.cells, maze.middle
  at = jnp.floor((state.position[::-1] - maze.line[0]) / maze.side).astype(jnp.int32)
  row, column = jnp.clip(at, 0, n - 1)
  walled = lambda joined, axis: jnp.pad(joined, [(1, 1) if i == axis else (0, 0) for i in (0, 1)])
  right, down = walled(state.right, 1), walled(state.down, 0)
  joined = jnp.stack([right[row, column + 1], right[row, column], down[row + 1, column], down[row, column]])
  near = jnp.stack([jnp.stack([row, column])] * 4) + np.int32([(0, 1), (0, -1), (1, 0), (-1, 0)])
  inside = jnp.clip(near, 0, n - 1)
  left = jnp.where(joined, moves[cell, inside[:, 0] * n + inside[:, 1]], n * n)
  here = moves[cell, row * n + column]
  own = jnp.asarray(middle)[jnp.stack([column, row])]
  way = jnp.asarray(middle)[inside[left.argmin()][::-1]]
  across = jnp.where(way == own, jnp.abs(state.position - own), 0.0).max()
  return jnp.where((left.min() < here) & (across < maze.side / 4), way, own), here == 0


# ---- layouts ----

def layout(key: jax.Array, *, cells: int, loops: int) -> tuple[jax.Array, jax.Array]:
  """(right, down) of a random maze, see `State`: a spanning tree and `loops` more openings."""
  n = cells
  index = np.arange(n * n).reshape(n, n)
  ends = np.concatenate([np.stack([index[:, :-1], index[:, 1:]], -1).reshape(-1, 2),
                         np.stack([index[:-1], index[1:]], -1).reshape(-1, 2)])               # [E 2]
  k_tree, k_loops = jax.random.split(key)
  weight = jax.random.uniform(k_tree, (len(ends),))

  def grow(_, carry):
    """The lightest edge out of what is reached."""
    reached, joined = carry
    new = jnp.argmin(jnp.where(reached[ends[:, 0]] != reached[ends[:, 1]], weight, 2.0))
    both = jnp.asarray(ends)[new]
    reached = reached | (jnp.arange(n * n) == both[0]) | (jnp.arange(n * n) == both[1])
    return reached, joined | (jnp.arange(len(ends)) == new)

  start = jnp.arange(n * n) == 0, jnp.zeros(len(ends), bool)
  _, joined = jax.lax.fori_loop(0, n * n - 1, grow, start)
  rank = jnp.argsort(jnp.argsort(jnp.where(joined, 2.0, jax.random.uniform(k_loops, (len(ends),)))))
  joined = joined | (rank < loops)
  return joined[:n * (n - 1)].reshape(n, n - 1), joined[n * (n - 1):].reshape(n - 1, n)


def distances(right: jax.Array, down: jax.Array) -> jax.Array:
  """int32 [N*N N*N]: least number of moves from cell to cell, cells in row-major order; N*N where there is no
  way. Paths of up to 1, 2, 4, ... moves, each from two of half as many."""
  n = right.shape[0]
  index = np.arange(n * n).reshape(n, n)
  moves = jnp.full((n * n, n * n), n * n, jnp.int32)
  moves = moves.at[index[:, :-1].ravel(), index[:, 1:].ravel()].set(jnp.where(right.ravel(), 1, n * n))
  moves = moves.at[index[:-1].ravel(), index[1:].ravel()].set(jnp.where(down.ravel(), 1, n * n))
  moves = jnp.where(jnp.eye(n * n, dtype=bool), 0, jnp.minimum(moves, moves.T))
  double = lambda _, m: jnp.minimum(m, (m[:, :, None] + m[None]).min(1))
  return jax.lax.fori_loop(0, int(n * n - 1).bit_length(), double, moves)


def _boxes(line: np.ndarray, half: float) -> tuple[Boxes, Boxes]:
  """Border and inner posts [4 + (N-1)^2 2], and the walls between cells [E 2], right ones first."""
  n = len(line) - 1
  start, end = line[0] + half, line[-1] - half
  border = [(-FAR, -FAR, start, FAR), (end, -FAR, FAR, FAR), (-FAR, -FAR, FAR, start), (-FAR, end, FAR, FAR)]
  post = [(x - half, y - half, x + half, y + half) for y in line[1:-1] for x in line[1:-1]]
  right = [(line[c + 1] - half, line[r] - half, line[c + 1] + half, line[r + 1] + half)
           for r in range(n) for c in range(n - 1)]
  down = [(line[c] - half, line[r + 1] - half, line[c + 1] + half, line[r + 1] + half)
          for r in range(n - 1) for c in range(n)]
  split = lambda rows: Boxes(*(np.float32(rows)[:, part] for part in (slice(0, 2), slice(2, 4))))
  return split(border + post), split(right + down)


def _coverage(line: np.ndarray, half: float, size: int) -> Spans:
  pixel = np.arange(size)
  share = lambda a, b: np.clip(np.minimum(b[:, None], pixel + 1) - np.maximum(a[:, None], pixel), 0, 1)
  return Spans(*(s.astype(np.float32) for s in (share(line - half, line + half),
                                                share(line[:-1] + half, line[1:] - half))))
