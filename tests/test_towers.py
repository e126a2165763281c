"""Heads, and towers over views: whose statistics are whose, and what a target network is."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import schedules
from jepa.methods import byol
from jepa.models import backbone, heads, towers
from jepa.types import Features
from tests import runs
from tests.test_models import close, shaken

KEY = jax.random.key(0)
ENCODER = dict(name="convnet", widths=(4, 6), strides=(2, 1))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def rows(n=16, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def images(*shape, seed=0):
  """Floats in [0, 1]; no two views or images have one law."""
  rng = np.random.default_rng(seed)
  return (rng.random((*shape, 3)) * rng.random((*shape[:-2], 1, 1, 1))).astype(np.float32)


# Heads.


def normal(h, scale=1.0, bias=0.0):
  return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * scale + bias


@pytest.mark.parametrize("last", heads.LAST)
@pytest.mark.parametrize("norm,activation,bias", [(True, "relu", True), (False, "gelu", False)])
def test_mlp_is_what_its_options_say(norm, last, activation, bias):
  x, net = rows(), runs.compiled(heads.mlp(widths=(7, 4), norm=norm, last=last, bias=bias, activation=activation))
  params, stats = net.init(KEY, x)
  params = shaken(params)
  assert set(params) == {"hidden0", "out"} | ({"norm0"} if norm else set()) | (
      {"last"} if last == "batch" else set())
  assert set(stats) == ({"norm0"} if norm else set()) | (set() if last == "plain" else {"last"})
  assert ("bias" in params["hidden0"]) != norm, "BatchNorm takes a bias away"
  assert ("bias" in params["out"]) == (bias and last == "plain")
  h = x @ params["hidden0"]["kernel"] + params["hidden0"].get("bias", 0)
  h = normal(h, **params["norm0"]) if norm else h
  erf = np.vectorize(math.erf)
  h = np.maximum(h, 0) if activation == "relu" else h * (1 + erf(h / np.sqrt(2))) / 2
  h = h @ params["out"]["kernel"] + params["out"].get("bias", 0)
  out, new = net.apply(params, stats, x, train=True)
  close(out, h if last == "plain" else normal(h, **params.get("last", {})), atol=1e-4)
  if last != "plain":
    close(new["last"]["mean"], 0.1 * h.mean(0), atol=1e-4)
    close(net.apply(params, new, x[:3], train=False)[0],      # in evaluation by the running ones
          (h[:3] - new["last"]["mean"]) / np.sqrt(new["last"]["var"] + 1e-5)
          * params.get("last", {}).get("scale", 1) + params.get("last", {}).get("bias", 0)
          if not norm else net.apply(params, new, x, train=False)[0][:3], atol=1e-4)


def test_unscaled_outputs_are_standardised():
  net = heads.mlp(widths=(4,), last="unscaled")
  params, stats = net.init(KEY, rows())
  assert list(params) == ["out"] and list(params["out"]) == ["kernel"]
  out, _ = net.apply(params, stats, 3 + 5 * rows(), train=True)
  close(out.mean(0), np.zeros(4), atol=1e-5)
  close(out.var(0), np.ones(4), rtol=1e-3)


def test_one_width_is_a_linear_map():
  net = heads.mlp(widths=(4,))
  params, stats = net.init(KEY, rows())
  assert not stats and list(params) == ["out"]
  close(net.apply(params, stats, rows(), train=True)[0], rows() @ params["out"]["kernel"])
  line = heads.linear(4)
  params = shaken(line.init(KEY, rows()))
  x = np.stack([rows(seed=1), rows(seed=2)])
  close(line.apply(params, x), x @ params["kernel"] + params["bias"])


@pytest.mark.parametrize("args,told", [
    (dict(last="layer"), "last 'layer' is unknown; choose one of plain, batch, unscaled"),
    (dict(activation="tanh"), "activation 'tanh' is unknown; choose one of gelu, relu")])
def test_wrong_heads_are_told(args, told):
  with pytest.raises(ValueError, match=told):
    heads.mlp(**args)


def test_prototypes_are_cosines():
  x, net = rows(), runs.compiled(heads.prototypes(9))
  params, stats = net.init(KEY, x)
  assert stats == {} and params["kernel"].shape == (5, 9)
  out, stats = net.apply(params, {}, x, train=True)
  assert stats == {} and out.shape == (16, 9) and np.abs(out).max() <= 1 + 1e-6
  kernel = np.asarray(params["kernel"])
  close(out, x @ kernel / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(kernel, axis=0))
  scaled = {"kernel": kernel * np.arange(1, 10)}      # only directions matter
  close(net.apply(scaled, {}, 7 * x, train=False)[0], out)
  close(net.apply({"kernel": x[:9].T}, {}, x, train=False)[0][np.arange(9), np.arange(9)], np.ones(9))
  g = jax.jit(jax.grad(lambda k: jnp.sin(net.apply({"kernel": k}, {}, x, train=True)[0]).sum()))(kernel)
  close((g * kernel).sum(0), np.zeros(9), atol=1e-4)  # so no gradient is along one
  at_zero = jax.jit(jax.grad(lambda x: net.apply(params, {}, x, train=True)[0].sum()))(0 * x)
  assert np.isfinite(at_zero).all()


# Towers.


HEADS = dict(projector=heads.mlp(widths=(6, 4), last="batch"), predictor=heads.mlp(widths=(5, 4)))


@functools.cache
def tower():
  """(tower, params, stats, apply), compiled once for every set of groups."""
  t = runs.compiled(towers.make(encoder=ENCODER, mean=MEAN, std=STD, heads=HEADS))
  params, stats = t.init(KEY, images(4, 8, 8))
  return t, shaken(params), stats, t.apply


def test_parts_are_chained_and_start_apart():
  t, params, stats, _ = tower()
  assert set(params) == set(stats) == {"encoder", "projector", "predictor"}
  assert [params[k]["hidden0"]["kernel"].shape for k in ("projector", "predictor")] == [(6, 6), (4, 5)]
  same = towers.make(encoder=ENCODER, heads={k: heads.mlp(widths=(6,)) for k in "ab"})
  start, _ = jax.jit(same.init)(KEY, images(4, 8, 8))
  assert np.abs(start["a"]["out"]["kernel"] - start["b"]["out"]["kernel"]).max() > 1e-2


def test_statistics_are_those_of_one_view_and_running_ones_move_by_their_mean():
  _, params, stats, apply = tower()
  x = images(3, 6, 8, 8)
  out, new = apply(params, stats, [x])
  alone = [apply(params, stats, [x[v:v + 1]]) for v in range(3)]
  for name, shape in (("encoder", (3, 6, 6)), ("projector", (3, 6, 4)), ("predictor", (3, 6, 4))):
    assert out[name].shape == shape
    close(out[name], np.concatenate([o[name] for o, _ in alone]), atol=1e-4)
  jax.tree.map(lambda s, *views: close(s, np.mean(views, 0), atol=1e-5), new, *(s for _, s in alone))
  differ = lambda a, b: max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
  assert differ(alone[0][1], alone[1][1]) > 1e-3
  merged, _ = apply(params, stats, [x.reshape(1, 18, 8, 8, 3)])
  assert np.abs(merged["predictor"].reshape(3, 6, 4) - out["predictor"]).max() > 1e-2


def test_a_head_normalises_each_view():
  t = towers.make(encoder=ENCODER, heads=dict(projector=heads.mlp(widths=(4,), last="unscaled")))
  params, stats = jax.jit(t.init)(KEY, images(4, 8, 8))
  z = jax.jit(t.apply)(params, stats, [images(2, 16, 8, 8)])[0]["projector"]
  close(z.mean(1), np.zeros((2, 4)), atol=1e-4)


def test_groups_differ_in_size():
  _, params, stats, apply = tower()
  large, little = images(2, 6, 16, 16), images(3, 6, 8, 8, seed=1)
  out, new = apply(params, stats, (large, little))
  assert {k: v.shape for k, v in out.items()} == dict(
      encoder=(5, 6, 6), projector=(5, 6, 4), predictor=(5, 6, 4))
  first, between = apply(params, stats, (large,))
  second, after = apply(params, between, (little,))
  for k in out:
    close(out[k], np.concatenate([first[k], second[k]]), atol=1e-4)
  # An encoder's statistics move once for each group, a head's once, by the mean over all views.
  jax.tree.map(close, new["encoder"], after["encoder"])
  _, other = apply(params, stats, (little,))
  head = lambda s: s["projector"]["norm0"]["mean"]
  close(head(new), (2 * head(between) + 3 * head(other)) / 5, atol=1e-5)


def test_an_encoder_without_statistics_has_groups_too():
  t = towers.make(encoder=dict(width=8, depth=1, heads=2, patch=4, cls=True), heads=HEADS)
  params, stats = jax.eval_shape(t.init, KEY, images(4, 8, 8))
  assert stats["encoder"] == {} and stats["projector"]
  out, new = jax.eval_shape(t.apply, params, stats, (images(2, 6, 16, 16), images(3, 6, 8, 8)))
  assert {k: v.shape for k, v in out.items()} == dict(
      encoder=(5, 6, 8), projector=(5, 6, 4), predictor=(5, 6, 4))
  assert jax.tree.structure(new) == jax.tree.structure(stats)


def test_parts_stop_early():
  _, params, stats, apply = tower()
  x = [images(2, 6, 8, 8)]
  every, moved = apply(params, stats, x)
  for n, parts in enumerate((("encoder",), ("encoder", "projector")), 1):
    few = {k: params[k] for k in parts}
    out, new = apply(few, stats | {"centre": jnp.ones(3)}, x, parts=parts)
    assert tuple(out) == parts and len(out) == n
    for k in parts:
      close(out[k], every[k])
      jax.tree.map(close, new[k], moved[k])
    for k in set(stats) - set(parts):
      jax.tree.map(np.testing.assert_array_equal, new[k], stats[k])
    np.testing.assert_array_equal(new["centre"], 1)      # what else is there passes through


def test_embed_is_evaluation_and_features_training():
  t, params, stats, apply = tower()
  x = images(6, 8, 8)
  encoder = runs.compiled(backbone.make(**ENCODER))
  standard = (x - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
  _, stats = apply(params, stats, [x[None]])      # statistics that are not the first ones
  out = t.embed(params, stats, x)
  want, _ = encoder.apply(params["encoder"], stats["encoder"], standard, train=False)
  jax.tree.map(close, out, want)
  close(t.embed(params, stats, x[:2]).pooled, out.pooled[:2])
  trained, new = t.features(params, stats, x)
  want, moved = encoder.apply(params["encoder"], stats["encoder"], standard, train=True)
  jax.tree.map(close, trained, want)
  jax.tree.map(close, new, stats | {"encoder": moved})
  close(trained.pooled, apply(params, stats, [x[None]])[0]["encoder"][0])
  assert np.abs(trained.pooled - out.pooled).max() > 1e-2


def test_bytes_and_floats_are_one_image():
  t, params, stats, apply = tower()
  pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
  floats = pixels.astype(np.float32) / 255
  jax.tree.map(close, t.embed(params, stats, pixels), t.embed(params, stats, floats))
  jax.tree.map(close, t.features(params, stats, pixels), t.features(params, stats, floats))
  close(apply(params, stats, [pixels[None]])[0]["predictor"],
        apply(params, stats, [floats[None]])[0]["predictor"])
  jax.tree.map(np.testing.assert_array_equal, t.init(KEY, pixels), t.init(KEY, floats))


# Methods of a tower, and its target.

BATCH = {"image": images(4, 8, 8)}
PARTS = ("encoder", "projector")


def test_the_method_of_a_tower_keeps_its_statistics():
  t, params, stats, _ = tower()
  method = towers.method(t, loss=None)
  jax.tree.map(np.testing.assert_array_equal, method.init(KEY, BATCH), t.init(KEY, BATCH["image"]))
  assert method.post(params, stats, jnp.int32(3)) is stats
  jax.tree.map(close, method.embed(params, stats, BATCH), t.embed(params, stats, BATCH["image"]))


def test_the_target_is_the_moving_average():
  """After n steps: m_1 .. m_n start + sum_i (1 - m_i) m_{i+1} .. m_n online_i."""
  t, *_ = tower()
  momentum = [0.9, 0.5, 0.8]
  method = towers.with_target(t, None, lambda step: jnp.array(momentum)[step], PARTS)
  params, extra = method.init(KEY, BATCH)
  assert set(extra) == {"encoder", "projector", "predictor", "target", "target_stats"}
  assert set(extra["target"]) == set(extra["target_stats"]) == set(PARTS)
  for ours, copied in ((params, extra["target"]), (extra, extra["target_stats"])):
    for k in PARTS:
      jax.tree.map(np.testing.assert_array_equal, ours[k], copied[k])
      pairs = zip(jax.tree.leaves(ours[k]), jax.tree.leaves(copied[k]))
      assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs), "a shared buffer"
  online = [jax.tree.map(lambda p: p + (i + 1) * np.ones_like(p), params) for i in range(3)]
  post, before = jax.jit(method.post), extra
  for i, p in enumerate(online):
    extra = post(p, extra, jnp.int32(i))
  weight = [np.prod(momentum)] + [(1 - momentum[i]) * np.prod(momentum[i + 1:]) for i in range(3)]
  assert sum(weight) == pytest.approx(1)
  for k in PARTS:
    jax.tree.map(lambda target, *ps: close(target, sum(w * p for w, p in zip(weight, ps))),
                 extra["target"][k], params[k], *(p[k] for p in online))
  for k in set(extra) - {"target"}:      # statistics are the loss's to move
    jax.tree.map(np.testing.assert_array_equal, extra[k], before[k])


def test_the_target_sees_views_by_its_own_weights_and_moves_its_own_statistics():
  t, *_ = tower()
  _, extra = towers.with_target(t, None, lambda step: 0.5, PARTS).init(KEY, BATCH)
  extra["target"] = jax.tree.map(lambda p: p + 0.1, extra["target"])
  groups = (np.stack([BATCH["image"]] * 2),)
  out, after = towers.of_target(t, extra, groups, PARTS)
  expected, stats = t.apply(extra["target"], extra["target_stats"], groups, PARTS)
  jax.tree.map(np.testing.assert_array_equal, out, expected)
  jax.tree.map(np.testing.assert_array_equal, after, extra | {"target_stats": stats})
  assert set(out) == set(PARTS)


def test_more_is_told_the_target_after_each_step():
  t, *_ = tower()
  seen = []

  def more(params, extra, step):
    seen.append(step)
    return {"sum": extra["target"]["encoder"]["norm0"]["scale"].sum(),
            "count": jnp.int32(0) if step is None else step + 1}

  method = towers.with_target(t, None, lambda step: 0.5, PARTS, more=more)
  params, extra = method.init(KEY, BATCH)
  assert seen == [None] and extra["count"] == 0 and extra["sum"] == 4
  extra = method.post(jax.tree.map(lambda p: p + 1, params), extra, jnp.int32(6))
  assert seen[1:] == [6] and extra["count"] == 7
  close(extra["sum"], 6.0)      # (1 + 2) / 2 of each of four channels


@pytest.mark.parametrize("embed_target", [False, True])
def test_evaluation_sees_the_network_that_it_is_told_to(embed_target):
  t, params, stats, _ = tower()
  method = towers.with_target(t, None, lambda step: 0.5, PARTS, embed_target=embed_target)
  _, extra = method.init(KEY, BATCH)
  assert extra["target_stats"] is not None
  extra["target_stats"] = jax.tree.map(lambda s: s + 0.5, extra["target_stats"])
  out, used = method.embed(params, extra, BATCH), None
  if embed_target:
    used = t.embed(extra["target"], extra["target_stats"], BATCH["image"])
  else:
    used = t.embed(params, {k: extra[k] for k in stats}, BATCH["image"])
  assert isinstance(out, Features)
  jax.tree.map(close, out, used)
  for other in (t.embed(extra["target"], stats, BATCH["image"]),
                t.embed(params, extra["target_stats"], BATCH["image"])):
    assert np.abs(other.pooled - out.pooled).max() > 1e-2


def test_the_target_has_no_gradient():
  head = dict(widths=(6, 4))
  method = byol.make(encoder=ENCODER, projector=head, predictor=head, steps=5,
                     views=dict(kind="crops", count=2, size=8))
  batch = {"image": images(8, 8, 8)}
  params, extra = jax.jit(method.init)(KEY, batch)
  params = shaken(params)
  (_, (new, _)), (ours, targets) = jax.jit(jax.value_and_grad(
      lambda p, e: method.loss(p, e, batch, KEY), argnums=(0, 1), has_aux=True))(params, extra)
  assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(targets["target"]))
  assert all(max(np.abs(g).max() for g in jax.tree.leaves(ours[k])) > 1e-3 for k in params)
  # both networks' statistics move in a step, the target's parameters only after it
  moved = lambda k: any(np.abs(a - b).max() > 1e-4
                        for a, b in zip(jax.tree.leaves(new[k]), jax.tree.leaves(extra[k])))
  assert all(moved(k) for k in ("encoder", "projector", "predictor", "target_stats"))
  assert not moved("target")
  target = method.post(params, new, jnp.int32(0))["target"]
  m = float(schedules.make(kind="cosine", value=0.99, end=1.0, steps=5)(0))
  jax.tree.map(lambda t, a, b: close(t, m * a + (1 - m) * b, atol=1e-6), target, extra["target"],
               {k: params[k] for k in PARTS})
