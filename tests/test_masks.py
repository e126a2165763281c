"""Multi-block masks against an independent NumPy sampler of the paper's geometry
(arXiv 2301.08243, section 3)."""
import functools
import math
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jepa import masks
from jepa.types import Tokens
from tests import laws

GRIDS = ((14, 14), (7, 7), (6, 10))
IMAGES = 6000
SCALE, ASPECT, CONTEXT, BLOCKS, MIN_KEEP, TRIES = (0.15, 0.2), (0.75, 1.5), (0.85, 1.0), 4, 10, 4


class Sample(NamedTuple):
  """Masks of many images as booleans over the grid."""

  context: np.ndarray      # [n N]
  targets: np.ndarray      # [n M N]
  sizes: np.ndarray        # [n M 2] height, width
  corners: np.ndarray      # [n M 2] top, left


def reference(rng, grid, n, *, exclusive=False, one_uniform=False, tries=TRIES,
              min_keep=MIN_KEEP) -> Sample:
  """The geometry, one image at a time, with what the published sampler does differently as options.

  A block has floor(share * tokens) tokens before rounding and any place where it fits; an image is drawn
  again until its context has `min_keep` tokens.
  """
  rows, columns = grid
  low, high = np.array([SCALE[0], ASPECT[0]]), np.array([SCALE[1], ASPECT[1]])

  def block(square):
    share, ratio = low + (high - low) * (np.full(2, rng.random()) if one_uniform else rng.random(2))
    if square:
      share, ratio = rng.uniform(*CONTEXT), 1.0
    area = math.floor(share * rows * columns)
    height, width = min(rows, round(math.sqrt(area * ratio))), min(columns, round(math.sqrt(area / ratio)))
    top = rng.integers(max(1, rows - height + (not exclusive)))
    left = rng.integers(max(1, columns - width + (not exclusive)))
    inside = np.zeros(grid, bool)
    inside[top:top + height, left:left + width] = True
    return inside, (height, width), (top, left)

  out = []
  for _ in range(n):
    best = None
    for _ in range(tries):
      blocks = [block(False) for _ in range(BLOCKS)]
      context = block(True)[0] & ~np.any([b[0] for b in blocks], 0)
      if best is None or context.sum() > best[0].sum():
        best = context, blocks
      if context.sum() >= min_keep:
        best = context, blocks
        break
    context, blocks = best
    out.append((context.ravel(), [b[0].ravel() for b in blocks], [b[1] for b in blocks],
                [b[2] for b in blocks]))
  return Sample(*(np.array(x) for x in zip(*out)))


def dense(tokens: Tokens, size: int) -> np.ndarray:
  """bool [... N]: the valid tokens; a token named twice is an error."""
  counts = np.zeros((*tokens.index.shape[:-1], size), int)
  flat, index, valid = (x.reshape(-1, x.shape[-1]) for x in (counts, tokens.index, tokens.valid))
  for j in range(index.shape[-1]):
    np.add.at(flat, (np.flatnonzero(valid[:, j]), index[valid[:, j], j]), 1)
  assert counts.max() == 1
  return counts.astype(bool)


def boxes(targets: np.ndarray, grid) -> tuple[np.ndarray, np.ndarray]:
  """Sizes and corners of the bounding boxes of targets [n M N]."""
  maps = targets.reshape(*targets.shape[:2], *grid)
  spans = [maps.any(-1), maps.any(-2)]
  corners = np.stack([s.argmax(-1) for s in spans], -1)
  ends = np.stack([s.shape[-1] - s[..., ::-1].argmax(-1) for s in spans], -1)
  return ends - corners, corners


class Case:
  """Our masks of a grid, raw and dense, and the reference's."""

  def __init__(self, grid):
    self.grid, self.size = grid, grid[0] * grid[1]
    self.raw = jax.device_get(_sampler(1.0)(jax.random.key(0), IMAGES, grid))
    targets = dense(self.raw.targets, self.size)
    self.ours = Sample(dense(self.raw.context, self.size), targets, *boxes(targets, grid))
    self.reference = reference(np.random.default_rng(1), grid, IMAGES)


@functools.cache
def _sampler(keep):
  return jax.jit(masks.multiblock(keep=keep), static_argnums=(1, 2))


@functools.cache
def _case(grid):
  return Case(grid)


@pytest.fixture(params=GRIDS, ids=lambda g: f"{g[0]}x{g[1]}")
def case(request):
  return _case(request.param)


def coverage(s: Sample):
  return s.targets.sum(1)


def sizes(s: Sample, categories):
  """Blocks of each size in an image [n S]."""
  return (s.sizes[:, :, None] == categories).all(-1).sum(1)


def places(s: Sample, grid):
  """Blocks of an image with each top, then each left [n rows + columns]."""
  return np.concatenate([(s.corners[..., [i]] == np.arange(grid[i])).sum(1) for i in (0, 1)], -1)


def test_every_token_row_and_column_is_reached(case):
  for name, seen in (("target", case.ours.targets.any(1)), ("context", case.ours.context)):
    assert seen.any(0).all(), f"no {name} at {np.flatnonzero(~seen.any(0))}"
  maps = case.ours.targets.any((0, 1)).reshape(case.grid)
  assert maps[-1].all() and maps[:, -1].all() and maps[0].all() and maps[:, 0].all()


def test_coverage_sizes_and_places_obey_the_geometry(case):
  categories = np.unique(case.reference.sizes.reshape(-1, 2), axis=0)
  assert laws.same_mean(coverage(case.ours), coverage(case.reference)) > 1e-3
  assert laws.same_mean(case.ours.context, case.reference.context) > 1e-3
  assert laws.same_mean(sizes(case.ours, categories), sizes(case.reference, categories)) > 1e-3
  assert laws.same_mean(places(case.ours, case.grid), places(case.reference, case.grid)) > 1e-3
  assert sizes(case.ours, categories).sum() == IMAGES * BLOCKS, "a size that the geometry does not have"


def test_number_of_context_tokens_obeys_the_geometry(case):
  histogram = lambda s: s.context.sum(1)[:, None] == np.unique(case.reference.context.sum(1))
  assert laws.same_mean(histogram(case.ours), histogram(case.reference)) > 1e-3


def test_the_published_defects_would_be_noticed(case):
  """What makes the tests above worth something: a wrong bound, a shared uniform
  and no second draw are all rejected."""
  rng = np.random.default_rng(2)
  exclusive = reference(rng, case.grid, IMAGES, exclusive=True)
  assert laws.same_mean(coverage(case.ours), coverage(exclusive)) < 1e-12
  assert laws.same_mean(case.ours.context, exclusive.context) < 1e-12
  assert laws.same_mean(places(case.ours, case.grid), places(exclusive, case.grid)) < 1e-12
  categories = np.unique(case.reference.sizes.reshape(-1, 2), axis=0)
  shared = reference(rng, case.grid, IMAGES, one_uniform=True)
  assert laws.same_mean(sizes(case.ours, categories), sizes(shared, categories)) < 1e-12


def test_context_and_targets_are_disjoint(case):
  assert not (case.ours.context & case.ours.targets.any(1)).any()


def test_targets_are_whole_rectangles_and_padding_is_flagged(case):
  area = case.ours.sizes.prod(-1)
  np.testing.assert_array_equal(case.ours.targets.sum(-1), area)       # as many tokens as the bounding box
  np.testing.assert_array_equal(case.raw.targets.valid.sum(-1), area)
  assert (area < case.raw.targets.valid.shape[-1]).any(), "nothing was padded: the test shows nothing"
  for tokens in case.raw:
    assert tokens.index.dtype == np.int32 and tokens.valid.dtype == bool
    assert tokens.index.min() >= 0 and tokens.index.max() < case.size
  first = case.raw.targets.index[..., :1]      # padding repeats a token of its own block
  assert (np.where(case.raw.targets.valid, first, case.raw.targets.index) == first).all()


def test_a_small_context_is_drawn_again():
  """With 28 tokens asked for on 7x7, most first draws have too few, and often all four: then the fullest is
  taken."""
  grid, n, rng = (7, 7), 3000, np.random.default_rng(3)
  sampler = jax.jit(masks.multiblock(keep=1.0, min_keep=28), static_argnums=(1, 2))
  ours = np.asarray(sampler(jax.random.key(3), n, grid).context.valid.sum(-1))
  theirs, once = (reference(rng, grid, n, tries=t, min_keep=28).context.sum(1) for t in (TRIES, 1))
  histogram = lambda counts: counts[:, None] == np.arange(50)
  assert laws.same_mean(histogram(ours), histogram(theirs)) > 1e-3
  assert laws.same_mean(histogram(ours), histogram(once)) < 1e-12
  assert 0.2 < (theirs < 28).mean() < 0.8, "one of the two branches is not tested"


def test_thinning_is_uniform():
  grid, n, keep = (14, 14), IMAGES, 0.3
  whole, thin = (_case(grid).ours.context,
                 dense(jax.device_get(_sampler(keep)(jax.random.key(0), n, grid)).context, 196))
  budget = math.ceil(keep * 196)
  assert (thin <= whole).all(), "thinning changed the geometry"
  count = whole.sum(1)
  np.testing.assert_array_equal(thin.sum(1), np.minimum(count, budget))
  excess = lambda kept: kept - whole * np.minimum(1, budget / count)[:, None]
  assert laws.zero_mean(excess(thin)) > 1e-3
  prefix = whole & (np.cumsum(whole, 1) <= budget)                     # the published cut, bottom right first
  assert laws.zero_mean(excess(prefix)) < 1e-12


def test_default_budget_is_the_mean_context():
  for grid in GRIDS:
    sample = reference(np.random.default_rng(5), grid, 2000, tries=1)
    size = masks.budget(grid, blocks=BLOCKS, target_scale=SCALE, target_aspect=ASPECT, context_scale=CONTEXT,
                        keep=0.0)
    assert abs(size.context - 0.5 - sample.context.sum(1).mean()) < 1.5
    assert size.target == sample.sizes.prod(-1).max()


@pytest.mark.parametrize("grid,scale,aspect,largest", [
    ((28, 28), (0.1, 0.3), (0.3, 3.0), 252), ((64, 64), (0.2, 0.4), (0.75, 1.5), 1677),
    ((8, 8), (0.15, 0.2), (0.75, 1.5), 12),
    ((4, 4), (1.0, 1.0), (1.0, 1.0), 16), ((2, 9), (0.5, 0.5), (1.0, 1.0), 6)])
def test_the_largest_block_fits_its_budget(grid, scale, aspect, largest):
  """No block may be cut; narrow windows of the aspect ratio give the largest ones."""
  size = masks.budget(grid, blocks=1, target_scale=scale, target_aspect=aspect, context_scale=CONTEXT,
                      keep=1.0).target
  u, v = np.random.default_rng(6).random((2, 200_000))
  height, width = masks.block_size(u, v, grid, scale, aspect, np)
  assert size == largest and (height * width).max() <= size


def test_sizes_are_static_under_jit():
  sampler, grid = _sampler(0.3), (14, 14)
  a, b, again = (sampler(jax.random.key(s), IMAGES, grid) for s in (0, 1, 0))
  assert sampler._cache_size() == 1
  size = masks.budget(grid, blocks=4, target_scale=SCALE, target_aspect=ASPECT, context_scale=CONTEXT,
                      keep=0.3)
  assert a.context.index.shape == a.context.valid.shape == (IMAGES, size.context)
  assert a.targets.index.shape == a.targets.valid.shape == (IMAGES, 4, size.target)
  assert not np.array_equal(a.targets.index, b.targets.index)
  jax.tree.map(np.testing.assert_array_equal, a, again)
  assert len({i.tobytes() for i in np.asarray(a.targets.index)}) > 0.99 * IMAGES, "images share their masks"


def test_gather_takes_each_image_its_own_tokens():
  rng = np.random.default_rng(7)
  x = rng.normal(size=(3, 10, 2)).astype(np.float32)
  for shape in ((3, 4), (3, 2, 4)):
    index = rng.integers(10, size=shape)
    got = np.asarray(masks.gather(x, Tokens(index, np.ones(shape, bool))))
    assert got.shape == (*shape, 2)
    for at in np.ndindex(shape):
      np.testing.assert_array_equal(got[at], x[at[0], index[at]])
