"""What is hidden from an encoder: random parts of a grid against a NumPy sampler, and hidden, unseen and
class tokens in a ViT."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import masks
from jepa.models import backbone, layers, vit
from jepa.types import Tokens
from tests import laws
from tests.test_models import GRID, KEY, TINY, close, image, shaken, tokens_of

IMAGES = 3000
ASPECT, MIN_BLOCK, DRAWS = (0.3, 1 / 0.3), 4, 16


def hidden(key, grid, share, blocks=True):
  """Hidden tokens of IMAGES images [n N]."""
  return np.asarray(_compiled(grid, blocks)(jax.random.key(key), share))


@functools.cache
def _compiled(grid, blocks):
  return jax.jit(lambda key, share: masks.hide(key, IMAGES, grid, share=share, blocks=blocks))


def touching(hidden, grid):
  """Pairs of hidden neighbours of each image [n]."""
  maps = hidden.reshape(-1, *grid)
  return (maps[:, 1:] & maps[:, :-1]).sum((1, 2)) + (maps[:, :, 1:] & maps[:, :, :-1]).sum((1, 2))


def reference(rng, grid, n, share, *, exclusive=False) -> np.ndarray:
  """The law of `hide` in blocks, one image at a time; with a bound that leaves the last row and column out,
  as an option."""
  out = np.zeros((n, *grid), bool)
  for picture in out:
    count = round(picture.size * rng.uniform(*share))
    for _ in range(DRAWS):
      area = MIN_BLOCK + rng.random() * max(count - picture.sum() - MIN_BLOCK, 0)
      ratio = math.exp(rng.uniform(*np.log(ASPECT)))
      height = min(grid[0], max(1, round(math.sqrt(area * ratio))))
      width = min(grid[1], max(1, round(math.sqrt(area / ratio))))
      top, left = (rng.integers(max(1, room - size + (not exclusive)))
                   for room, size in zip(grid, (height, width)))
      more = picture.copy()
      more[top:top + height, left:left + width] = True
      if more.sum() <= count:
        picture[:] = more
    rest = rng.permutation(np.flatnonzero(~picture.ravel()))[:count - picture.sum()]
    picture.reshape(-1)[rest] = True
  return out.reshape(n, -1)


# Two parts of a grid.


def test_split_is_disjoint_and_complete():
  split = jax.jit(masks.split, static_argnums=(1, 2, 3))
  for tokens, keep in ((196, 49), (20, 1), (20, 19)):
    visible, gone = split(KEY, 50, tokens, keep)
    assert visible.index.shape == (50, keep) and gone.index.shape == (50, tokens - keep)
    assert all(part.index.dtype == jnp.int32 and part.valid.all() for part in (visible, gone))
    both = np.sort(np.concatenate([visible.index, gone.index], 1), 1)
    np.testing.assert_array_equal(both, np.tile(np.arange(tokens), (50, 1)))
  again = split(KEY, 50, 20, 19)
  jax.tree.map(np.testing.assert_array_equal, again, (visible, gone))
  assert len({row.tobytes() for row in np.asarray(split(KEY, 50, 196, 49)[0].index)}) == 50


def test_split_is_uniform():
  tokens, keep = 20, 5
  visible, _ = masks.split(jax.random.key(1), IMAGES, tokens, keep)
  index = np.asarray(visible.index)
  seen = (index[:, :, None] == np.arange(tokens)).any(1)
  assert laws.zero_mean(seen - keep / tokens) > 1e-3
  first = index[:, :1] == np.arange(tokens)            # and in a random order
  assert laws.zero_mean(first - 1 / tokens) > 1e-3
  pairs = (seen[:, :, None] & seen[:, None])[:, *np.triu_indices(tokens, 1)]
  assert laws.zero_mean(pairs - keep * (keep - 1) / (tokens * (tokens - 1))) > 1e-3


# A share of a grid.


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("grid,share,count", [((14, 14), 0.6, 118), ((7, 9), 0.4, 25), ((4, 5), 0.12, 2),
                                              ((4, 5), 0.0, 0), ((4, 5), 1.0, 20)])
def test_a_fixed_share_is_hidden_exactly(grid, share, count, blocks):
  out = hidden(0, grid, (share, share), blocks)
  assert out.shape == (IMAGES, grid[0] * grid[1]) and out.dtype == bool
  assert set(out.sum(1)) == {count}


@pytest.mark.parametrize("blocks", [True, False])
def test_a_range_of_shares_is_drawn_evenly(blocks):
  grid, share = (7, 9), (0.1, 0.5)
  ours = hidden(1, grid, share, blocks).sum(1)
  theirs = np.round(63 * np.random.default_rng(0).uniform(*share, 20 * IMAGES))
  assert (ours.min(), ours.max()) == (6, 31)
  histogram = lambda count: count[:, None] == np.arange(6, 32)
  assert laws.same_mean(histogram(ours), histogram(theirs)) > 1e-3


@pytest.mark.parametrize("grid,share", [((14, 14), (0.4, 0.4)), ((7, 9), (0.1, 0.5))])
def test_blocks_obey_their_law(grid, share):
  rng, ours = np.random.default_rng(2), hidden(2, grid, share)
  law, wrong = (reference(rng, grid, IMAGES, share, exclusive=e) for e in (False, True))
  pairs = lambda h: touching(h, grid)[:, None].astype(float)
  assert laws.same_mean(ours, law) > 1e-3
  assert laws.same_mean(pairs(ours), pairs(law)) > 1e-3
  assert laws.same_mean(ours, wrong) < 1e-12, "the last row and column would not be missed"
  scattered = hidden(3, grid, share, blocks=False)
  assert touching(ours, grid).mean() > 1.25 * touching(scattered, grid).mean()


@pytest.mark.parametrize("blocks", [True, False])
def test_every_token_is_reached(blocks):
  for grid in ((14, 14), (4, 5)):
    share = hidden(4, grid, (0.3, 0.3), blocks).mean(0)
    assert share.min() > 0.02 and share.max() < 0.7      # few blocks reach a corner


def test_without_blocks_every_subset_is_alike():
  grid, n, count = (4, 5), 20, 8
  out = hidden(5, grid, (0.4, 0.4), blocks=False)
  assert laws.zero_mean(out - count / n) > 1e-3
  pairs = (out[:, :, None] & out[:, None])[:, *np.triu_indices(n, 1)]
  assert laws.zero_mean(pairs - count * (count - 1) / (n * (n - 1))) > 1e-3
  blocks = hidden(5, grid, (0.4, 0.4))
  assert laws.zero_mean(blocks - count / n) < 1e-12      # the centre lies in more blocks than a corner


def test_hiding_is_static_and_of_its_key_alone():
  draw = jax.jit(lambda k: masks.hide(k, 6, (4, 5), share=(0.1, 0.6)))
  keys = jax.random.split(KEY, 3)
  each = np.stack([draw(k) for k in keys])
  assert draw._cache_size() == 1
  np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(keys), each)
  np.testing.assert_array_equal(draw(keys[0]), each[0])
  assert len({row.tobytes() for row in each.reshape(18, 20)}) == 18


# Hidden patches of a ViT.


@functools.cache
def encoder(position="sincos", **args):
  """(net, params, apply) of a tiny ViT, compiled once."""
  net = vit.encoder(**(TINY | args), position=position)
  return net, shaken(jax.jit(net.init)(KEY, image())), jax.jit(net.apply)


def repaint(x, patches, by=9.0):
  """Images with the patches [N] of one index list painted over."""
  x = x.copy()
  for n in patches:
    x[:, n // GRID[1] * 4:n // GRID[1] * 4 + 4, n % GRID[1] * 4:n % GRID[1] * 4 + 4] += by
  return x


@pytest.mark.parametrize("position,cls", [("sincos", False), ("rope", True)])
def test_what_is_under_a_hidden_patch_does_not_matter(position, cls):
  _, params, apply = encoder(position, cls=cls, mask_token=True, depth=1)
  x, under = image(), [3, 4, 11, 19]
  mask = np.zeros((2, 20), bool)
  mask[:, under] = True
  out = apply(params, x, hidden=mask)
  assert out.shape == (2, 20 + cls, 16)
  np.testing.assert_array_equal(apply(params, repaint(x, under), hidden=mask), out)
  assert np.abs(apply(params, repaint(x, [5]), hidden=mask) - out).max() > 1e-2
  close(apply(params, x, hidden=np.zeros((2, 20), bool)), apply(params, x))
  assert np.abs(out - apply(params, x)).max() > 1e-2
  assert np.abs(out[:, cls + 3] - out[:, cls + 4]).max() > 1e-2, "hidden patches forget their places"
  one = mask & (np.arange(2) == 0)[:, None]            # each image has its own
  close(apply(params, x, hidden=one)[1], apply(params, x)[1])
  close(apply(params, x, hidden=one)[0], out[0])


def test_the_mask_token_learns_where_patches_are_hidden():
  net, params, _ = encoder(mask_token=True, depth=1)
  mask = np.arange(40).reshape(2, 20) % 3 == 0
  gradient = jax.jit(jax.grad(lambda p, m: jnp.sin(net.apply(p, image(), hidden=m)).sum()))
  token = lambda m: np.abs(gradient(params, m)["mask"]["token"]).max()
  assert token(mask) > 1e-3 and token(np.zeros((2, 20), bool)) == 0


def test_extra_tokens_are_parameters_only_where_asked_for():
  count = lambda **args: jax.eval_shape(vit.encoder(**TINY, **args).init, KEY, image())
  assert {"cls", "mask"} & set(count()) == set()
  args = TINY | dict(depth=1)
  both = jax.device_get(jax.jit(vit.encoder(**args, cls=True, mask_token=True).init)(KEY, image()))
  assert both["cls"]["token"].shape == both["mask"]["token"].shape == (16,)
  assert np.abs(both["cls"]["token"] - both["mask"]["token"]).max() > 1e-3
  without = jax.jit(vit.encoder(**args).init)(KEY, image())
  jax.tree.map(np.testing.assert_array_equal, without, {k: both[k] for k in without})      # one start


# Attention by patch.

CAUSAL = np.tile(np.tri(20, dtype=bool), (2, 1, 1))


@pytest.mark.parametrize("position,cls", [("sincos", False), ("rope", True)])
def test_causal_outputs_do_not_know_later_patches(position, cls):
  _, params, apply = encoder(position, cls=cls, depth=2)      # through a class token in two steps
  x = image()
  out = np.asarray(apply(params, x, see=CAUSAL))
  assert out.shape == (2, 20 + cls, 16)
  for j in (0, 7, 19):
    other = np.asarray(apply(params, repaint(x, [j]), see=CAUSAL))
    np.testing.assert_array_equal(other[:, cls:cls + j], out[:, cls:cls + j])
    moved = np.abs(other - out).max((0, 2))
    assert moved[cls + j:].min() > 1e-4
    assert not cls or moved[0] > 1e-4, "the class token sees every patch"
  if not cls:
    close(apply(params, x, see=np.ones((2, 20, 20), bool)), apply(params, x))


def test_what_each_patch_sees_is_its_own():
  """A mask that is the same for every query is that of a subset; one by image."""
  _, params, apply = encoder(depth=2)
  kept = np.array([[0, 3, 4, 9, 17], [1, 2, 3, 15, 19]])
  see = np.zeros((2, 20), bool)
  np.put_along_axis(see, kept, True, 1)
  out = np.asarray(apply(params, image(), see=np.repeat(see[:, None], 20, 1)))
  close(np.take_along_axis(out, kept[..., None], 1), apply(params, image(), tokens_of(kept)))


# The class token.


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_class_token_is_first_and_sees_the_image(position):
  net, params, apply = encoder(position, cls=True, depth=2)
  x = image()
  out = np.asarray(apply(params, x))
  assert out.shape == (2, 21, 16)
  for n in (0, 10, 19):
    assert np.abs(apply(params, repaint(x, [n]))[:, 0] - out[:, 0]).max() > 1e-3
  # The order of patches is nothing to it, nor are padding and patches outside of a subset.
  order = np.stack([np.random.default_rng(s).permutation(20) for s in (0, 1)])
  mixed = np.asarray(apply(params, x, tokens_of(order)))
  close(mixed[:, 0], out[:, 0])
  close(mixed[:, 1:], np.take_along_axis(out[:, 1:], order[..., None], 1))
  alone = apply(params, x, tokens_of(order[:, :6]))
  assert alone.shape == (2, 7, 16)
  padded = apply(params, x, tokens_of(order, np.tile(np.arange(20) < 6, (2, 1))))
  close(padded[:, :7], alone)
  assert np.abs(alone[:, 0] - out[:, 0]).max() > 1e-3
  other = params | {"cls": {"token": -params["cls"]["token"]}}
  assert (np.abs(apply(other, x) - out).max((0, 2)) > 1e-3).all(), "patches attend to the class token"
  every = jax.eval_shape(functools.partial(net.apply, layers=2), params, x)
  assert every.shape == (2, 2, 21, 16)


def test_class_token_has_no_place():
  """Under rotary positions it is a token that no rotation turns; under others nothing is added to it."""
  block = jax.jit(layers.net(layers.Block(2, 64)).apply)
  for position in ("sincos", "rope"):
    net, params, _ = encoder(position, cls=True, depth=1)
    trace = jax.jit(functools.partial(net.apply, layers=1))
    only = block(jax.tree.map(lambda p: p[0], params["blocks"]), params["cls"]["token"][None, None])
    subset = Tokens(np.array([[4]]), np.array([[False]]))      # it sees itself alone
    close(trace(params, image(1), subset)[0, :, 0], only[:, 0])


def test_backbone_pools_the_class_token():
  args = TINY | dict(cls=True, depth=1)
  net, (_, params, apply) = backbone.make(**args), encoder(cls=True, depth=1)
  shapes = functools.partial(jax.tree.map, jnp.shape)
  assert shapes(jax.eval_shape(net.init, KEY, image())) == (shapes(params), {})
  out = apply(params, image())
  features, _ = jax.jit(functools.partial(net.apply, train=True))(params, {}, image())
  close(features.pooled, out[:, 0])
  close(features.tokens, out[:, 1:])
  assert backbone.vit_args(dict(name="vit", width=3), "this") == {"width": 3}
  with pytest.raises(ValueError, match="name = 'resnet': this needs patches, which needs name='vit'"):
    backbone.vit_args(dict(name="resnet"), "this needs patches")
  with pytest.raises(ValueError, match="'mlp' is unknown; choose one of convnet, resnet, vit"):
    backbone.make(name="mlp")
