"""Masks: which tokens the context encoder sees and which the predictor predicts.
Pure, jittable, static sizes.

Multi-block masks of I-JEPA (arXiv 2301.08243, section 3): M target blocks, and one context block less every
target. Block sizes and places are drawn for each image and block. The published sampler draws one size for a
whole batch, places blocks with an exclusive bound, so that the last row and column are never reached, and
cuts all masks to the shortest of the batch from the bottom right; here every place is reachable and padding
carries `valid` False instead.
"""
from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.types import Tokens


class Masks(NamedTuple):
  context: Tokens      # [B K]
  targets: Tokens      # [B M Kt]


Sampler = Callable[[jax.Array, int, tuple[int, int]], Masks]      # (key, batch, grid) -> Masks


def multiblock(*, blocks: int = 4, target_scale: Sequence[float] = (0.15, 0.2),
               target_aspect: Sequence[float] = (0.75, 1.5), context_scale: Sequence[float] = (0.85, 1.0),
               keep: float = 0.0, min_keep: int = 10, tries: int = 4) -> Sampler:
  """I-JEPA's masks.

  Args:
    blocks: number M of target blocks; they may overlap each other.
    target_scale, context_scale: range of a block's share of the grid. The context block is square.
    target_aspect: range of height / width.
    keep: largest share of the grid in the context; what is above it is thinned uniformly at random. It sets
      the cost of the context encoder. 0: the mean of the unthinned context, rounded up.
    min_keep: a draw with fewer context tokens is drawn again, `tries` times in all
      (then the fullest draw is taken).

  Returns:
    (key, batch, grid) -> Masks; grid (rows, columns). Context and targets of an image are disjoint.
  """

  def sample(key, batch, grid):
    size = budget(grid, blocks=blocks, target_scale=target_scale, target_aspect=target_aspect,
                  context_scale=context_scale, keep=keep)
    one = lambda k: _sample_one(k, grid, size, blocks, target_scale, target_aspect, context_scale,
                                min_keep, tries)
    return jax.vmap(one)(jax.random.split(key, batch))

  return sample


class Budget(NamedTuple):
  """Static sizes of the gathered tokens."""

  context: int
  target: int


def block_size(u: jax.Array | np.ndarray, v: jax.Array | np.ndarray, grid: tuple[int, int], scale, aspect,
               xp=jnp):
  """(height, width) in tokens of a block with share scale[0] + u (scale[1] - scale[0])
  and aspect likewise by v."""
  area = xp.floor(grid[0] * grid[1] * (scale[0] + u * (scale[1] - scale[0])))
  ratio = aspect[0] + v * (aspect[1] - aspect[0])
  height = xp.clip(xp.round(xp.sqrt(area * ratio)), 1, grid[0])
  width = xp.clip(xp.round(xp.sqrt(area / ratio)), 1, grid[1])
  return height.astype(xp.int32), width.astype(xp.int32)


def budget(grid: tuple[int, int], *, blocks, target_scale, target_aspect, context_scale, keep) -> Budget:
  """The sizes to gather: the largest target block there can be, and `keep` of the grid."""
  u, v = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
  height, width = block_size(u, v, grid, target_scale, target_aspect, np)
  if not keep:
    keep = _mean_context(grid, blocks, (height, width),
                         block_size(u[0], u[0], grid, context_scale, (1.0, 1.0), np))
  return Budget(max(1, math.ceil(keep * grid[0] * grid[1] - 1e-6)),
                _largest_block(grid, target_scale, target_aspect))


def _largest_block(grid, scale, aspect) -> int:
  """Tokens of the largest block: over every whole area and every (height, width) that some aspect ratio
  rounds to."""
  tokens = grid[0] * grid[1]
  area = np.arange(max(1, int(tokens * scale[0])),
                   max(1, int(tokens * scale[1] * (1 + 1e-6))) + 1)[:, None, None]
  height, width = np.arange(1, grid[0] + 1)[:, None], np.arange(1, grid[1] + 1)
  low = np.maximum(np.where(height > 1, (height - 0.5) ** 2 / area, 0),
                   np.where(width < grid[1], area / (width + 0.5) ** 2, 0))
  high = np.minimum(np.where(height < grid[0], (height + 0.5) ** 2 / area, np.inf),
                    np.where(width > 1, area / (width - 0.5) ** 2, np.inf))
  return int(np.where(np.maximum(low, aspect[0]) <= np.minimum(high, aspect[1]), height * width, 0).max())


def _mean_context(grid, blocks, target_sizes, context_sizes, draws=2000) -> float:
  """Expected share of the grid in the context block and in no target, by a fixed Monte Carlo at trace
  time."""
  rng = np.random.default_rng(0)
  rows, columns = np.arange(grid[0])[:, None], np.arange(grid[1])[None]
  def inside(sizes):
    pick = rng.integers(sizes[0].size)
    h, w = sizes[0].flat[pick], sizes[1].flat[pick]
    top, left = rng.integers(grid[0] - h + 1), rng.integers(grid[1] - w + 1)
    return (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
  def share():
    seen = inside(context_sizes)
    for _ in range(blocks):
      seen &= ~inside(target_sizes)
    return seen.mean()
  return float(np.mean([share() for _ in range(draws)]))


class _Block(NamedTuple):
  top: jax.Array
  left: jax.Array
  height: jax.Array
  width: jax.Array


def _draw_block(key, grid, scale, aspect) -> _Block:
  u, v, y, x = jax.random.uniform(key, (4,))
  height, width = block_size(u, v, grid, scale, aspect)
  # uniform over all `room` places
  place = lambda r, room: jnp.minimum((r * room).astype(jnp.int32), room - 1)
  return _Block(place(y, grid[0] - height + 1), place(x, grid[1] - width + 1), height, width)


def _inside(block, grid) -> jax.Array:
  rows, columns = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
  return ((rows >= block.top) & (rows < block.top + block.height)
          & (columns >= block.left) & (columns < block.left + block.width))


def _tokens_of(block, grid, size) -> Tokens:
  """The tokens of a block in row-major order, padded to `size` with its first token."""
  j = jnp.arange(size)
  index = (block.top + j // block.width) * grid[1] + block.left + j % block.width
  valid = j < block.height * block.width
  return Tokens(jnp.where(valid, index, index[0]), valid)


def _sample_one(key, grid, size, blocks, target_scale, target_aspect, context_scale, min_keep,
                tries) -> Masks:
  def attempt(k):
    k_context, k_targets = jax.random.split(k)
    draw = lambda t: _draw_block(t, grid, target_scale, target_aspect)
    targets = jax.vmap(draw)(jax.random.split(k_targets, blocks))
    hidden = jax.vmap(lambda b: _inside(b, grid))(targets).any(0)
    return targets, _inside(_draw_block(k_context, grid, context_scale, (1.0, 1.0)), grid) & ~hidden

  k_tries, k_thin = jax.random.split(key)
  targets, seen = jax.vmap(attempt)(jax.random.split(k_tries, tries))
  count = seen.sum(-1)
  chosen = jnp.where((count >= min_keep).any(), jnp.argmax(count >= min_keep), jnp.argmax(count))
  targets, seen = jax.tree.map(lambda x: x[chosen], (targets, seen))

  # Context tokens first, in random order: the first `size.context` are a uniform subset where there are too
  # many.
  order = jnp.argsort(jnp.where(seen, jax.random.uniform(k_thin, seen.shape), 2.0))[: size.context]
  valid = seen[order]
  context = Tokens(jnp.where(valid, order, order[0]).astype(jnp.int32), valid)
  return Masks(context, jax.vmap(lambda b: _tokens_of(b, grid, size.target))(targets))


def split(key: jax.Array, batch: int, tokens: int, keep: int) -> tuple[Tokens, Tokens]:
  """(visible [B keep], hidden [B tokens - keep]): a uniform random part of the grid for each image (MAE,
  arXiv 2111.06377)."""
  order = jnp.argsort(jax.random.uniform(key, (batch, tokens)), axis=1).astype(jnp.int32)
  every = lambda index: Tokens(index, jnp.ones(index.shape, bool))
  return every(order[:, :keep]), every(order[:, keep:])


def hide(key: jax.Array, batch: int, grid: tuple[int, int], *, share: Sequence[float], blocks: bool = True,
         min_block: int = 4, aspect: Sequence[float] = (0.3, 1 / 0.3), draws: int = 16) -> jax.Array:
  """bool [B N]: hidden tokens, of each image a share of the grid uniform in `share`, rounded.

  Args:
    blocks: in blocks of at least `min_block` tokens and log-uniform aspect ratio, as BEiT draws them (arXiv
      2106.08254, algorithm 1: a block never overshoots what is left to hide); what `draws` tries leave over
      is hidden at random, so that the number is exact. Otherwise uniformly at random (SimMIM).
  """
  n = grid[0] * grid[1]

  def one(k):
    k_count, k_blocks, k_rest = jax.random.split(k, 3)
    count = jnp.round(n * jax.random.uniform(k_count, (), minval=share[0], maxval=share[1]))
    covered = jnp.zeros(n, bool)
    if blocks:
      def add(covered, k):
        u = jax.random.uniform(k, (4,))
        left = count - covered.sum()
        area = min_block + u[0] * jnp.maximum(left - min_block, 0)
        ratio = jnp.exp(math.log(aspect[0]) + u[1] * (math.log(aspect[1]) - math.log(aspect[0])))
        height = jnp.clip(jnp.round(jnp.sqrt(area * ratio)), 1, grid[0]).astype(jnp.int32)
        width = jnp.clip(jnp.round(jnp.sqrt(area / ratio)), 1, grid[1]).astype(jnp.int32)
        place = lambda r, room: jnp.minimum((r * room).astype(jnp.int32), room - 1)
        block = _Block(place(u[2], grid[0] - height + 1), place(u[3], grid[1] - width + 1), height, width)
        more = covered | _inside(block, grid)
        return jnp.where(more.sum() <= count, more, covered), None
      covered = jax.lax.scan(add, covered, jax.random.split(k_blocks, draws))[0]
    first = jnp.argsort(jnp.where(covered, -1.0, jax.random.uniform(k_rest, (n,))))
    return jnp.zeros(n, bool).at[first].set(jnp.arange(n) < count)

  return jax.vmap(one)(jax.random.split(key, batch))


def gather(tokens_BND: jax.Array, tokens: Tokens) -> jax.Array:
  """tokens_BND [B N D] at tokens.index [B K] -> [B K D], or [B M K] -> [B M K D]."""
  b, shape = tokens_BND.shape[0], tokens.index.shape
  flat = jnp.take_along_axis(tokens_BND, tokens.index.reshape(b, -1, 1), axis=1)
  return flat.reshape(*shape, tokens_BND.shape[-1])
