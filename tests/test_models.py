"""Networks: what a padded, scanned, rematerialised, bf16 tower must have in common with a plain one;
published sizes."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import logs
from jepa.models import backbone, convnet, heads, layers, positions, vit
from jepa.types import Tokens

KEY = jax.random.key(0)
TINY = dict(width=16, depth=3, heads=2, patch=4)
GRID = (4, 5)


def image(n=2, seed=0):
  return np.random.default_rng(seed).random((n, 16, 20, 3)).astype(np.float32)


def shaken(params, by=0.3):
  """Parameters with noise on every leaf: at the initialisation biases are zero
  and attention is nearly flat."""
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(1)
  return tree.unflatten([p + by * rng.normal(size=p.shape).astype(np.float32) for p in leaves])


@functools.cache
def encoder(position="sincos", **args):
  """(net, params, apply) of a tiny ViT, compiled once."""
  net = vit.encoder(**(TINY | dict(args)), position=position)
  return net, shaken(net.init(KEY, image())), jax.jit(net.apply)


def tokens_of(index, valid=None):
  index = np.asarray(index, np.int32)
  return Tokens(index, np.ones(index.shape, bool) if valid is None else np.asarray(valid))


def close(a, b, **tolerance):
  np.testing.assert_allclose(a, b, **(dict(rtol=1e-4, atol=2e-5) | tolerance))


# Layers against loops.


def test_attention_is_that_of_a_loop():
  heads, b, n, d = 2, 2, 5, 8
  net = layers.net(layers.Attention(heads))
  x = np.random.default_rng(0).normal(size=(b, n, d)).astype(np.float32)
  valid = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], bool)
  p = shaken(net.init(KEY, x))
  expected = np.zeros((b, n, d))
  for i in range(b):
    q, k, v = (x[i] @ p["qkv"]["kernel"][:, t] + p["qkv"]["bias"][t] for t in range(3))
    for head in range(heads):
      s = slice(head * d // heads, (head + 1) * d // heads)
      for query in range(n):
        weight = [np.exp(q[query, s] @ k[key, s] / np.sqrt(d // heads)) * valid[i, key] for key in range(n)]
        expected[i, query, s] = sum(w * v[key, s] for key, w in enumerate(weight)) / sum(weight)
  close(jax.jit(net.apply)(p, x, valid), expected @ p["out"]["kernel"] + p["out"]["bias"])


def test_layer_norm_normalises_channels():
  x = 5 + 3 * np.random.default_rng(0).normal(size=(2, 3, 16))
  net = layers.net(layers.LayerNorm())
  p = shaken(net.init(KEY, jnp.asarray(x)))
  normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  close(net.apply(p, jnp.asarray(x)), normal * p["scale"] + p["bias"])


def test_dense_acts_on_the_last_axis():
  x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  net = layers.net(layers.Dense(5))
  p = shaken(net.init(KEY, x))
  close(net.apply(p, x), np.einsum("abd,de->abe", x, p["kernel"]) + p["bias"])


def test_patches_are_row_major_over_the_grid():
  x, out = image(), np.asarray(vit.patches(image(), 4))
  for b, row, column in np.ndindex(2, *GRID):
    np.testing.assert_array_equal(out[b, row * 5 + column],
                                  x[b, 4 * row:4 * row + 4, 4 * column:4 * column + 4].ravel())


# Stacks.


@pytest.fixture(scope="module")
def towers():
  """(scan, remat) -> (value, gradient, jaxpr of the gradient, its operations) of one tower
  in several forms."""
  block = layers.net(layers.Block(2, 32))
  x = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
  valid = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], bool)
  params = shaken(layers.stack(block, 2).init(KEY, x), 0.1)
  out = {}
  for scan, remat in ((False, "none"), (False, "full"), (True, "none"), (True, "dots"), (True, "full")):
    net = layers.stack(block, 2, remat=remat, scan=scan)
    loss = lambda p, x: (jnp.sin(net.apply(p, x, valid)) * valid[..., None]).sum()
    gradient = jax.grad(loss, argnums=(0, 1))
    out[scan, remat] = (*jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x),
                        str(jax.make_jaxpr(gradient)(params, x)), logs.operations(gradient, params, x))
  return out


def test_scanned_and_rematerialised_towers_are_the_unrolled_one(towers):
  value, gradient, *_ = towers[False, "none"]
  for name, (other, g, *_) in towers.items():
    close(other, value, err_msg=str(name))
    jax.tree.map(functools.partial(close, rtol=1e-3, atol=1e-4, err_msg=str(name)), g, gradient)


def test_what_is_asked_for_is_on(towers):
  for (scan, remat), (_, _, jaxpr, _) in towers.items():
    assert ("scan[" in jaxpr) == scan
    assert ("remat" in jaxpr or "checkpoint[" in jaxpr) == (remat != "none")
  plain, dots, full = (towers[True, remat][3] for remat in ("none", "dots", "full"))
  assert plain <= dots < full                                            # how much is computed twice


@pytest.mark.parametrize("scan", [False, True])
def test_the_last_layers_are_those_that_apply_goes_through(scan):
  net = vit.encoder(**(TINY | dict(depth=3)), scan=scan)
  params = shaken(net.init(KEY, image()))
  every = jax.jit(functools.partial(net.apply, layers=3))(params, image())
  assert every.shape == (3, 2, 20, 16)
  close(jax.jit(functools.partial(net.apply, layers=2))(params, image()), every[1:])
  norm = layers.net(layers.LayerNorm())
  close(norm.apply(params["norm"], every[-1]), jax.jit(net.apply)(params, image()))
  shallow = vit.encoder(**(TINY | dict(depth=1)), scan=scan)
  first = params | {"blocks": jax.tree.map(lambda p: p[:1], params["blocks"])}
  close(norm.apply(params["norm"], every[0]), jax.jit(shallow.apply)(first, image()))


def test_deep_towers_are_scanned_by_default():
  block = layers.net(layers.Block(1, 4))
  for depth, scanned in ((12, False), (13, True)):
    net = layers.stack(block, depth)
    params = jax.eval_shape(net.init, KEY, jnp.zeros((1, 1, 4)))
    assert ("scan[" in str(jax.make_jaxpr(net.apply)(params, jnp.zeros((1, 1, 4))))) == scanned
    assert all(p.shape[0] == depth for p in jax.tree.leaves(params))


@pytest.mark.parametrize("std", [0.02, 0.0])
def test_residual_projections_shrink_with_depth(std):
  d, depth = 64, 4
  block = layers.net(layers.Block(2, d, init_std=std))
  params = jax.device_get(jax.jit(layers.stack(block, depth).init)(KEY, jnp.zeros((1, 1, d))))
  plain = np.std(params["up"]["kernel"][0])
  assert 0.85 < plain / (std or d**-0.5) < 1.05                         # truncated at two deviations
  for kernel in (params["attention"]["out"]["kernel"], params["down"]["kernel"]):
    for layer in range(depth):
      assert np.std(kernel[layer]) == pytest.approx(plain / np.sqrt(2 * (layer + 1)), rel=0.05)
  for kernel in (params["up"]["kernel"], params["attention"]["qkv"]["kernel"]):
    for layer in range(depth):
      assert np.std(kernel[layer]) == pytest.approx(plain, rel=0.05)
    assert not np.allclose(kernel[0], kernel[1]), "layers start alike"


def test_unknown_rematerialisation_is_told():
  with pytest.raises(ValueError, match="remat 'all' is unknown; choose one of none, full, dots"):
    layers.stack(layers.net(layers.Block(1, 4)), 2, remat="all")


# Positions.


def test_sincos_positions_are_those_of_mae():
  width, grid = 16, (3, 5)
  table = positions.sincos_2d(width, grid)
  assert table.shape == (15, 16) and table.dtype == np.float32
  for row, column in np.ndindex(*grid):
    expected = []
    for at in (column, row):
      angles = [at / 10000 ** (i / (width // 4)) for i in range(width // 4)]
      expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
    close(table[row * 5 + column], expected, atol=1e-6)
  with pytest.raises(ValueError, match="divisible by 4, not 18"):
    positions.sincos_2d(18, grid)


def test_rotary_products_depend_on_the_offset_only():
  grid, k = (6, 7), 8
  q, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, k)).astype(np.float32)
  def product(a, b):
    turn = lambda x, at: positions.rotate(x,
                                          positions.rope_2d(jnp.array([[at[0] * grid[1] + at[1]]]), grid, k))
    return float((turn(q, a) * turn(key, b)).sum())
  base = product((0, 1), (2, 3))
  assert product((3, 4), (5, 6)) == pytest.approx(base, abs=1e-4)       # both moved alike
  others = [product((0, 1), b) for b in ((2, 4), (3, 3), (3, 2), (0, 1))]
  assert min(abs(o - base) for o in others) > 1e-3
  assert product((0, 0), (0, 0)) == pytest.approx(float((q * key).sum()), abs=1e-5)
  every = positions.rotate(np.repeat(q, 42, 1), positions.rope_2d(jnp.arange(42)[None], grid, k))
  close(np.linalg.norm(every, axis=-1), np.full((1, 42, 1), np.linalg.norm(q)), rtol=1e-5)
  with pytest.raises(ValueError, match="divisible by 4, not 6"):
    positions.rope_2d(jnp.zeros((1, 1), int), grid, 6)


# The encoder.


@pytest.mark.parametrize("position", ["sincos", "learned", "rope"])
def test_padding_and_order_of_tokens_do_not_matter(position):
  _, params, apply = encoder(position)
  x = image()
  everything = apply(params, x)
  assert everything.shape == (2, 20, 16)
  order = np.stack([np.random.default_rng(s).permutation(20) for s in (0, 1)])
  close(apply(params, x, tokens_of(order)), np.take_along_axis(np.asarray(everything), order[..., None], 1))
  # A subset on its own, the subset with padding, and all tokens with the rest invalid: one answer.
  kept, valid = order[:, :6], np.arange(20) < 6
  alone = apply(params, x, tokens_of(kept))
  padded = apply(params, x, tokens_of(order, np.stack([valid] * 2)))
  close(padded[:, :6], alone)
  assert np.abs(alone - np.take_along_axis(np.asarray(everything), kept[..., None],
                                           1)).max() > 1e-2, "tokens do not attend"
  # What an image holds outside its tokens is not seen.
  changed = x.copy()
  for b in range(2):
    for n in set(range(20)) - set(kept[b].tolist()):
      changed[b, n // 5 * 4:n // 5 * 4 + 4, n % 5 * 4:n % 5 * 4 + 4] = 9.0
  np.testing.assert_array_equal(apply(params, changed, tokens_of(kept)), alone)


def test_rope_sees_a_shifted_patch_group_as_the_same():
  """Two by two patches, moved by a whole patch with their content: rotary codes are relative,
  the others are not."""
  x, moved = image(1), np.zeros_like(image(1))
  moved[:, 4:12, 4:12] = x[:, :8, :8]
  here, there = tokens_of([[0, 1, 5, 6]]), tokens_of([[6, 7, 11, 12]])
  difference = {}
  for position in ("rope", "sincos"):
    _, params, apply = encoder(position)
    difference[position] = np.abs(apply(params, x, here) - apply(params, moved, there)).max()
  assert difference["rope"] < 1e-4 < 1e-2 < difference["sincos"]


def test_bfloat16_is_of_the_compute_only():
  _, params, apply = encoder()
  net = vit.encoder(**TINY, dtype="bfloat16")
  own = jax.eval_shape(net.init, KEY, image())
  assert {p.dtype for p in jax.tree.leaves(own)} == {jnp.dtype("float32")}
  out, exact = jax.jit(net.apply)(params, image()), apply(params, image())
  assert out.dtype == exact.dtype == jnp.float32
  error = np.abs(out - exact).max()
  assert 1e-4 < error < 0.3 and np.corrcoef(np.ravel(out), np.ravel(exact))[0, 1] > 0.995
  assert "bf16" in str(jax.make_jaxpr(net.apply)(params, image()))


def abstract_count(**args):
  init = vit.encoder(**args).init
  shapes = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(shapes))


@pytest.mark.parametrize("variant,patch,published", [
    ("Ti", 16, 5.5e6), ("S", 16, 21.6e6), ("B", 16, 85.6e6), ("L", 16, 303.1e6), ("H", 14, 630.4e6),
    ("g", 16, 1011e6)])
def test_variants_have_the_published_sizes(variant, patch, published):
  count = abstract_count(variant=variant, patch=patch)
  assert count == vit.parameters(variant, patch)
  assert count == pytest.approx(published, rel=2e-3 if variant != "Ti" else 1e-2)


def test_sizes_override_the_variant():
  assert vit.shape_of("S", depth=3) == (384, 3, 6, 4.0)
  assert abstract_count(variant="Ti", depth=2, patch=16, position="learned") == (
      abstract_count(variant="Ti", depth=2, patch=16) + 196 * 192)


@pytest.mark.parametrize("make,told", [
    (lambda: vit.encoder(variant="XL"), "variant 'XL' is unknown; choose one of Ti, S, B, L, H, g"),
    (lambda: vit.encoder(width=16, heads=2), "needs a variant, or width, depth and heads"),
    (lambda: vit.encoder(width=16, depth=1, heads=3), "width 16 is not divisible by 3 heads"),
    (lambda: vit.encoder(variant="S", position="2d"),
     "'2d' are unknown; choose one of sincos, learned, rope"),
    (lambda: vit.predictor(inputs=8, width=10, heads=4), "predictor width 10 is not divisible by 4 heads"),
    (lambda: vit.encoder(**TINY).init(KEY, np.zeros((1, 15, 16, 3))),
     "15x16 is not divisible into patches of 4: choose"),
    (lambda: vit.encoder(**TINY).apply({}, np.zeros((1, 16, 18, 3))),
     "16x18 is not divisible into patches of 4"),
    (lambda: backbone.make(name="mlp"), "'mlp' is unknown; choose one of convnet, resnet, vit"),
    (lambda: convnet.convnet(widths=(1, 2), strides=(1,)),
     "2 widths, 1 strides and 2 kernels; give as many of each")])
def test_wrong_sizes_say_what_to_do(make, told):
  with pytest.raises(ValueError, match=told):
    make()


# The predictor.


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_blocks_are_predicted_on_their_own_and_padding_is_not_seen(position):
  net = vit.predictor(inputs=6, width=16, depth=2, heads=2, position=position)
  params, rng = shaken(net.init(KEY)), np.random.default_rng(0)
  apply = jax.jit(lambda z, c, t: net.apply(params, z, c, t, GRID))
  z = rng.normal(size=(2, 5, 6)).astype(np.float32)
  context = tokens_of([[0, 1, 2, 3, 4]] * 2, [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
  context = context._replace(valid=context.valid.astype(bool))
  index = np.array([[[5, 6, 7], [10, 11, 10]], [[8, 9, 8], [15, 16, 17]]])
  valid = np.array([[[1, 1, 1], [1, 1, 0]], [[1, 1, 0], [1, 1, 1]]], bool)
  out = np.asarray(apply(z, context, tokens_of(index, valid)))
  assert out.shape == (2, 2, 3, 6) and out.dtype == np.float32
  close(out[0, 1, 0], out[0, 1, 2])      # one place, one answer; another place, another
  assert np.abs(out[0, 1, 0] - out[0, 1, 1]).max() > 1e-3
  other = index.copy()
  other[:, 1] = [[18, 19, 18], [12, 13, 14]]                            # the second block elsewhere
  moved = np.asarray(apply(z, context, tokens_of(other, valid)))
  close(moved[:, 0], out[:, 0])
  assert np.abs(moved[:, 1] - out[:, 1]).max() > 1e-2
  padded = np.where(valid, index, 19)                                   # what padding names
  close(np.asarray(apply(z, context, tokens_of(padded, valid)))[valid], out[valid])
  noise = np.where(context.valid[..., None], z, 100.0)                  # what an invalid context token holds
  close(apply(noise, context, tokens_of(index, valid))[valid], out[valid])
  assert np.abs(apply(z + 0.5, context, tokens_of(index, valid))[valid] - out[valid]).max() > 1e-2


def test_joint_blocks_see_each_other_and_no_padding():
  net = vit.predictor(inputs=6, width=16, depth=2, heads=2, joint=True)
  params, z = shaken(net.init(KEY)), np.random.default_rng(0).normal(size=(1, 3, 6)).astype(np.float32)
  apply = jax.jit(lambda t: net.apply(params, z, tokens_of([[0, 1, 2]]), t, GRID))
  index, valid = np.array([[[5, 6, 7], [10, 11, 10]]]), np.array([[[1, 1, 1], [1, 1, 0]]], bool)
  out = np.asarray(apply(tokens_of(index, valid)))
  assert out.shape == (1, 2, 3, 6)
  close(np.asarray(apply(tokens_of(np.where(valid, index, 19), valid)))[valid], out[valid])
  other = index.copy()
  other[:, 1] = [[18, 19, 18]]
  assert np.abs(np.asarray(apply(tokens_of(other, valid)))[:, 0] - out[:, 0]).max() > 1e-3
  close(apply(tokens_of(index[:, ::-1], valid[:, ::-1])), out[:, ::-1])


# BatchNorm and convolutions.


def test_batch_norm_uses_the_batch_in_training_and_running_statistics_after():
  net = heads.mlp(widths=(4, 3))
  x = 2 + np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
  params, stats = net.init(KEY, x)
  params = shaken(params)
  train, test = (jax.jit(functools.partial(net.apply, train=t)) for t in (True, False))
  h = x @ np.asarray(params["hidden0"]["kernel"])
  mean, var = h.mean(0), h.var(0)
  def after(m, v):
    y = (h - m) / np.sqrt(v + 1e-5) * params["norm0"]["scale"] + params["norm0"]["bias"]
    return np.maximum(y, 0) @ params["out"]["kernel"] + params["out"]["bias"]
  np.testing.assert_array_equal(stats["norm0"]["mean"], 0)
  np.testing.assert_array_equal(stats["norm0"]["var"], 1)
  for n in range(1, 4):
    out, stats = train(params, stats, x)
    close(out, after(mean, var))
    close(stats["norm0"]["mean"], (1 - 0.9**n) * mean)
    close(stats["norm0"]["var"], 0.9**n + (1 - 0.9**n) * var)
  out, same = test(params, stats, x)
  close(out, after(stats["norm0"]["mean"], stats["norm0"]["var"]))
  jax.tree.map(np.testing.assert_array_equal, same, stats)
  close(test(params, stats, x[:3])[0], out[:3])                         # evaluation does not see the batch
  assert np.abs(train(params, stats, x[:3])[0] - out[:3]).max() > 1e-2


@pytest.mark.parametrize("name,args,width,tokens", [
    ("convnet", dict(widths=(4, 8), strides=(1, 2)), 8, 8 * 10), ("vit", TINY, 16, 20)])
def test_backbones_share_a_signature(name, args, width, tokens):
  net = backbone.make(name=name, **args)
  params, stats = net.init(KEY, image())
  (pooled, every), new = jax.jit(functools.partial(net.apply, train=True))(params, stats, image())
  assert pooled.shape == (2, width) and every.shape == (2, tokens, width) and pooled.dtype == jnp.float32
  close(pooled, every.mean(1))
  assert jax.tree.structure(new) == jax.tree.structure(stats) and bool(stats) == (name == "convnet")
