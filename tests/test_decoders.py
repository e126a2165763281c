"""Networks from representations to pixels, and the text encoder."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import text as codes
from jepa.models import pixels, positions, text, vit
from jepa.types import Net
from tests.test_models import GRID, KEY, close, shaken, tokens_of

TINY = dict(width=16, depth=1, heads=2)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def decoder(**args):
  """(net, params, apply on GRID) of a tiny decoder."""
  net = vit.decoder(**(TINY | dict(inputs=6, outputs=5) | args))
  return net, shaken(jax.jit(net.init)(KEY)), jax.jit(lambda p, z: net.apply(p, z, GRID))


# From tokens to outputs.


def test_decoder_of_tokens_and_of_one_vector():
  _, params, apply = decoder()
  tokens, vector = normal(2, 20, 6), normal(2, 6)
  out = apply(params, tokens)
  assert out.shape == (2, 20, 5) and out.dtype == jnp.float32
  one = np.asarray(apply(params, vector))
  assert one.shape == (2, 20, 5)
  close(one, apply(params, np.repeat(vector[:, None], 20, 1)))            # every place starts from it
  flat = one.reshape(2, 20, 1, 5) - one.reshape(2, 1, 20, 5)
  assert np.abs(flat).max(-1)[:, *np.triu_indices(20, 1)].min() > 1e-3, "two places are the same"
  close(apply(params, vector[:1]), one[:1])
  other = tokens.copy()
  other[:, 7] += 1
  assert (np.abs(apply(params, other) - out).max((0, 2)) > 1e-4).all(), "places do not attend"


def test_decoder_knows_places():
  """Without the table an order of tokens would give the same order of outputs."""
  _, params, apply = decoder()
  order, z = np.random.default_rng(0).permutation(20), normal(1, 20, 6)
  assert np.abs(apply(params, z[:, order]) - apply(params, z)[:, order]).max() > 1e-2
  table = positions.sincos_2d(16, GRID)
  # with another's position in place of its own, a token's output goes along
  square = vit.decoder(**TINY, inputs=16, outputs=5)
  p = shaken(jax.jit(square.init)(KEY))
  z = normal(1, 20, 16)
  shift = (table[order] - table) @ np.linalg.inv(p["in"]["kernel"])
  run = jax.jit(lambda z: square.apply(p, z, GRID))
  close(run(z[:, order] + shift), run(z)[:, order], atol=1e-3)


def test_decoder_computes_in_bfloat16_and_stays_f32():
  _, params, apply = decoder()
  rough = vit.decoder(**TINY, inputs=6, outputs=5, dtype="bfloat16")
  assert {p.dtype for p in jax.tree.leaves(jax.eval_shape(rough.init, KEY))} == {jnp.dtype("float32")}
  out = jax.jit(lambda p, z: rough.apply(p, z, GRID))(params, normal(2, 20, 6))
  assert out.dtype == jnp.float32
  error = np.abs(out - apply(params, normal(2, 20, 6))).max()
  assert 1e-4 < error < 0.3


def test_predictor_with_outputs_is_a_decoder():
  context, z = tokens_of([[0, 1, 2]] * 2), normal(2, 3, 6)
  targets = tokens_of(np.arange(5, 11).reshape(1, 2, 3).repeat(2, 0))
  outs = {}
  for outputs in (0, 6, 48):
    net = vit.predictor(inputs=6, outputs=outputs, **TINY)
    params = jax.jit(net.init)(KEY)
    assert params["out"]["kernel"].shape == (16, outputs or 6)
    outs[outputs] = jax.jit(lambda p, z, net=net: net.apply(p, z, context, targets, GRID))(params, z)
    assert outs[outputs].shape == (2, 2, 3, outputs or 6)
  np.testing.assert_array_equal(outs[0], outs[6])


# To images.


@pytest.mark.parametrize("side,tokens,channels", [(16, 16, 3), (12, 9, 1), (28, 16, 1), (8, 1, 3)])
def test_pixels_are_put_back_where_patches_came_from(monkeypatch, side, tokens, channels):
  image, grid = normal(2, side, side, channels), (round(tokens**0.5),) * 2
  patch = side // grid[0]
  asked = {}

  def identity(**args):
    asked.update(args)
    return Net(lambda key: {}, lambda params, z, given: asked.update(grid=given) or z)

  monkeypatch.setattr(vit, "decoder", identity)
  net = pixels.decoder(image, np.zeros((2, tokens, 7)), dict(width=3))
  np.testing.assert_array_equal(net.apply(net.init(KEY), vit.patches(image, patch)), image)
  assert asked == dict(inputs=7, outputs=patch * patch * channels, width=3, grid=grid)
  pixels.decoder(image, np.zeros((2, tokens, 7)), {}, inputs=4)
  assert asked["inputs"] == 4


@pytest.mark.parametrize("inputs,shape", [(0, (3, 16, 7)), (4, (3, 4))])
def test_pixels_of_tokens_and_of_one_vector(inputs, shape):
  """Of another number of images than those it was made for."""
  net = pixels.decoder(normal(2, 16, 16, 3), normal(2, 16, 7), TINY, inputs=inputs)
  params, z = shaken(jax.jit(net.init)(KEY)), normal(*shape)
  out = jax.jit(net.apply)(params, z)
  assert out.shape == (3, 16, 16, 3) and out.dtype == jnp.float32
  plain = vit.decoder(**TINY, inputs=inputs or 7, outputs=48)
  close(vit.patches(out, 4), jax.jit(lambda p, z: plain.apply(p, z, (4, 4)))(params, z))
  gradient = jax.jit(jax.grad(lambda z: jnp.sin(net.apply(params, z)).sum()))(z)
  assert np.abs(gradient).min() > 0


@pytest.mark.parametrize("image,tokens", [
    ((16, 16), 8), ((16, 16), 9), ((16, 20), 20), ((8, 32), 16), ((15, 15), 4), ((4, 4), 64)])
def test_wrong_grids_are_told(image, tokens):
  """A wide image of a square number of patches (8 x 32 of 4: 2 x 8) would be put together wrongly."""
  with pytest.raises(ValueError, match=f"{tokens} tokens of an image {image[0]}x{image[1]} are none: choose"):
    pixels.decoder(np.zeros((1, *image, 3)), np.zeros((1, tokens, 6)), TINY)


@pytest.mark.parametrize("make,told", [
    (lambda: vit.decoder(inputs=4, outputs=4, width=10, heads=4), "decoder width 10 is not divisible by 4"),
    (lambda: vit.predictor(inputs=4, outputs=4, width=10, heads=4), "predictor width 10 is not divisible"),
    (lambda: text.encoder(vocabulary=9, width=10, heads=4), "text width 10 is not divisible by 4 heads")])
def test_wrong_widths_are_told(make, told):
  with pytest.raises(ValueError, match=told):
    make()


# Text.


@functools.cache
def reader(dtype="float32"):
  """(params, apply) of a tiny text encoder."""
  net = text.encoder(vocabulary=codes.VOCABULARY, length=12, dtype=dtype, **TINY)
  return shaken(jax.jit(net.init)(KEY), 0.1), jax.jit(net.apply)


def test_padding_of_a_text_does_not_matter():
  params, apply = reader()
  words = ["a cat", "", "no dog"]
  whole = apply(params, codes.tokenise(words, 12))
  assert whole.shape == (3, 16) and whole.dtype == jnp.float32
  close(apply(params, codes.tokenise(words, 9)), whole)
  for i, word in enumerate(words):                     # nor do the texts beside it
    close(apply(params, codes.tokenise([word], max(3, len(word) + 2))), whole[i:i + 1])
  other = params | {"symbols": {"kernel": params["symbols"]["kernel"].at[codes.PAD].set(50.0)}}
  close(apply(other, codes.tokenise(words, 12)), whole)
  assert np.isfinite(apply(params, np.zeros((1, 12), np.int32))).all()      # a text of nothing else


def test_symbols_and_their_order_matter():
  params, apply = reader()
  out = np.asarray(apply(params, codes.tokenise(["abc", "acb", "abd", "abcc"], 12)))
  for i, j in np.argwhere(np.tri(4, k=-1)):
    assert np.abs(out[i] - out[j]).max() > 1e-3
  still = params | {"positions": 0 * params["positions"]}      # nothing but positions tells an order
  out = apply(still, codes.tokenise(["abc", "acb", "abd"], 12))
  close(out[0], out[1])
  assert np.abs(out[0] - out[2]).max() > 1e-3


def test_text_computes_in_bfloat16_and_stays_f32():
  params, apply = reader("bfloat16")
  exact = reader()[1]
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  tokens = codes.tokenise(["a cat", "no dog"], 12)
  out = apply(params, tokens)
  assert out.dtype == jnp.float32 and 1e-5 < np.abs(out - exact(params, tokens)).max() < 0.1


def test_every_parameter_of_a_text_encoder_learns():
  net = text.encoder(vocabulary=codes.VOCABULARY, length=12, **TINY)
  params, _ = reader()
  tokens = codes.tokenise(["ab", "longer text"], 12)
  g = jax.jit(jax.grad(lambda p: jnp.sin(net.apply(p, tokens)).sum()))(params)
  used = np.isin(np.arange(codes.VOCABULARY), tokens[tokens > 0])
  size = np.abs(g["symbols"]["kernel"]).max(1)
  assert (size[used] > 1e-6).all() and (size[~used] == 0).all(), "of symbols that are there, padding not"
  assert (np.abs(g["positions"]).max(1) > 1e-6).all()
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(g))
