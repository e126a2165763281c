"""Schedules against closed forms; optimizers against optax's own."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jepa import optim, schedules


# Schedules.


def expected(step, *, value, steps, kind, start, end, warmup, decay=0, horizon=1.0):
  """The schedule of one step, case by case."""
  total = horizon * steps
  if step < warmup:
    return start + (value - start) * step / warmup
  if kind == "constant":
    return value
  if kind == "wsd":
    return value if step <= total - decay else max(0.0, (total - step) / decay) * (value - end) + end
  done = min(1.0, (step - warmup) / (total - warmup))
  return end + (value - end) * (1 - done if kind == "linear" else (1 + math.cos(math.pi * done)) / 2)


CASES = {
    "cosine": dict(value=1e-3, steps=40, kind="cosine", start=2e-4, end=1e-6, warmup=5),
    "cosine cut by the horizon": dict(value=1e-3, steps=40, kind="cosine", start=0.0, end=1e-6, warmup=5,
                                      horizon=1.25),
    "weight decay": dict(value=0.04, steps=40, kind="cosine", start=0.0, end=0.4, warmup=0),
    "momentum": dict(value=0.996, steps=40, kind="linear", start=0.0, end=1.0, warmup=0),
    "linear": dict(value=2.0, steps=40, kind="linear", start=1.0, end=0.5, warmup=8),
    "constant": dict(value=2.0, steps=40, kind="constant", start=0.5, end=0.0, warmup=8),
    "wsd": dict(value=2.0, steps=40, kind="wsd", start=0.0, end=0.1, warmup=4, decay=10),
    "warm-up and decay fill the run": dict(value=2.0, steps=40, kind="wsd", start=0.0, end=0.0, warmup=30,
                                           decay=10),
}


@pytest.mark.parametrize("name", CASES)
def test_schedule_is_its_closed_form(name):
  schedule, steps = schedules.make(**CASES[name]), np.arange(45)
  got = jax.jit(schedule)(steps)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [expected(t, **CASES[name]) for t in steps], rtol=2e-6, atol=1e-8)
  np.testing.assert_allclose(schedule(7), got[7], rtol=1e-6)


def test_schedule_ends_where_it_should():
  at = lambda step, **args: float(schedules.make(value=1.0, steps=10, **args)(step))
  assert at(10, kind="cosine", end=0.25) == 0.25 and at(5, kind="cosine") == pytest.approx(0.5)
  assert at(10, kind="cosine", horizon=2.0) == pytest.approx(0.5)       # half way, then cut
  assert at(0, kind="cosine", warmup=2) == 0 and at(2, kind="cosine", warmup=2) == 1
  assert at(3) == 1


def test_schedule_errors_say_what_to_do():
  with pytest.raises(ValueError, match="'cosin' is unknown; choose one of constant, linear, cosine, wsd"):
    schedules.make(value=1.0, steps=10, kind="cosin")
  with pytest.raises(ValueError,
                     match="warmup 8 .* decay 5 steps is longer than the run of 10.*lengthen config.total"):
    schedules.make(value=1.0, steps=10, kind="wsd", warmup=8, decay=5)
  schedules.make(value=1.0, steps=10, kind="cosine", warmup=8, decay=5)          # only wsd has a decay


# Optimizers.


def parameters():
  rng = np.random.default_rng(0)
  leaf = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {"encoder": {"blocks": {"up": {"kernel": leaf(3, 4, 5), "bias": leaf(3, 5)},
                                 "norm": {"scale": leaf(3, 4)}},
                      "patch": {"kernel": leaf(4, 4)}, "positions": leaf(6, 4)},
          "predictor": {"out": {"kernel": leaf(4, 2), "bias": leaf(2)}, "mask": {"token": leaf(4)}}}


def kernels(tree):
  return jax.tree_util.tree_map_with_path(lambda p, _: p[-1].key == "kernel", tree)


def run(optimizer, steps=4, params=None, scale=1.0):
  """Parameters after a few steps along fixed gradients."""
  params, rng = params or parameters(), np.random.default_rng(1)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for _ in range(steps):
    grads = jax.tree.map(lambda p: (scale * rng.normal(size=p.shape)).astype(np.float32), params)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def same(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **(dict(rtol=1e-5, atol=1e-6) | tolerance)),
               a, b)


def make(**args):
  return optim.make(**(dict(lr=dict(value=0.1), weight_decay=0.05, steps=10) | args))[0]


def test_adamw_is_that_of_optax():
  ours = make(name="adamw", b1=0.8, b2=0.95, eps=1e-6)
  same(run(ours), run(optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.05, mask=kernels)))


def test_lars_is_that_of_optax_for_every_layer():
  """Ours on stacked layers, optax's on the same layers one by one: the ratio of norms is a layer's own."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  stacked = {"blocks": {"up": {"kernel": draw(3, 4, 5), "bias": draw(3, 5)}}, "out": {"kernel": draw(5, 2)}}
  stacked["blocks"]["up"]["kernel"] *= np.array([1.0, 10.0, 0.1], np.float32)[:, None, None]
  grads = [jax.tree.map(lambda p: draw(*p.shape), stacked) for _ in range(4)]
  apart = lambda tree: {"out": tree["out"]} | {f"layer{i}": jax.tree.map(lambda p: p[i], tree["blocks"])
                                               for i in range(3)}

  def train(optimizer, params, grads):
    state = optimizer.init(params)
    for g in grads:
      updates, state = optimizer.update(g, state, params)
      params = optax.apply_updates(params, updates)
    return params

  ours = train(make(name="lars", momentum=0.8, trust=0.01), stacked, grads)
  theirs = train(optax.lars(0.1, 0.05, weight_decay_mask=kernels, trust_coefficient=0.01,
                            trust_ratio_mask=kernels, momentum=0.8),
                 apart(stacked), [apart(g) for g in grads])
  same(apart(ours), theirs)


def test_sgd_is_that_of_optax():
  ours = make(name="sgd", momentum=0.8)
  same(run(ours), run(optax.chain(optax.add_decayed_weights(0.05, kernels), optax.sgd(0.1, momentum=0.8))))


@pytest.mark.parametrize("name", optim.NAMES)
def test_decay_reaches_kernels_only(name):
  """With zero gradients only decay moves a weight; stacked biases and scales have two dimensions
  and yet none."""
  before = parameters()
  after = run(make(name=name, trust=1.0), params=before, scale=0.0)
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
  assert moved == kernels(before)


def test_schedules_drive_the_update():
  """Decoupled decay with zero gradients: every step multiplies a kernel by 1 - lr(t) wd(t)."""
  lr = dict(kind="linear", value=0.5, end=0.1, warmup=2)
  decay = dict(kind="cosine", value=0.04, end=0.4)
  optimizer, by_name = optim.make(name="adamw", lr=lr, weight_decay=decay, steps=6)
  after = run(optimizer, 6, scale=0.0)["predictor"]["out"]["kernel"]
  factor = np.prod([1 - expected(t, steps=6, start=0.0, **lr)
                    * expected(t, steps=6, start=0.0, warmup=0, **decay) for t in range(6)])
  np.testing.assert_allclose(after, parameters()["predictor"]["out"]["kernel"] * factor, rtol=1e-5)
  assert set(by_name) == {"lr", "weight_decay"}
  assert float(by_name["lr"](0)) == 0 and float(by_name["lr"](2)) == 0.5
  assert float(by_name["weight_decay"](6)) == pytest.approx(0.4)


@pytest.mark.parametrize("name", optim.NAMES)
def test_groups_freeze_scale_and_exempt(name):
  before, plain = parameters(), run(make(name=name))
  groups = [dict(match="^encoder/patch", lr=0.0), dict(match="^encoder/", lr=0.5),
            dict(match="out", decay=0.0)]
  after = run(make(name=name, groups=groups))
  # first match
  np.testing.assert_array_equal(after["encoder"]["patch"]["kernel"], before["encoder"]["patch"]["kernel"])
  move = lambda tree, leaf: np.asarray(leaf(tree)) - leaf(before)
  bias = lambda tree: tree["encoder"]["blocks"]["up"]["bias"]
  np.testing.assert_allclose(move(after, bias), move(plain, bias) / 2, rtol=1e-4, atol=1e-6)
  same(after["predictor"]["mask"], plain["predictor"]["mask"])
  undecayed = run(make(name=name, weight_decay=0.0))
  same(after["predictor"]["out"], undecayed["predictor"]["out"])
  assert not np.allclose(plain["predictor"]["out"]["kernel"], undecayed["predictor"]["out"]["kernel"],
                         rtol=1e-5)


def test_a_group_scales_the_decay():
  factor = lambda **group: float(
      (run(make(groups=[dict(match="patch", **group)]), 1, scale=0.0)["encoder"]["patch"]["kernel"]
       / parameters()["encoder"]["patch"]["kernel"]).mean())
  assert factor(decay=3.0) == pytest.approx(1 - 0.1 * 3 * 0.05, rel=1e-5)
  assert factor(lr=2.0) == pytest.approx(1 - 2 * 0.1 * 0.05, rel=1e-5)


def test_clipping_is_of_the_global_norm():
  """SGD's first step is the clipped gradient: its norm over all leaves is `clip`, its direction is kept."""
  before = parameters()
  def step(clip):
    after = run(make(name="sgd", lr=dict(value=1.0), weight_decay=0.0, clip=clip), 1)
    return np.concatenate([np.ravel(a - b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))])
  free, clipped = step(0.0), step(0.7)
  assert np.linalg.norm(free) > 2
  np.testing.assert_allclose(clipped, free * 0.7 / np.linalg.norm(free), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(step(1e3), free, rtol=1e-6)


def test_bfloat16_gradients_and_counts_do_not_change_dtypes():
  params = {"a": {"kernel": jnp.ones((2, 2))}}
  optimizer = make()
  updates, state = optimizer.update(params, optimizer.init(params), params)
  assert updates["a"]["kernel"].dtype == jnp.float32
  assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))


def test_path_of_names_every_kind_of_key():
  tree = {"a": [optim.Group("x"), (1,)]}
  assert [optim.path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)] == [
      "a/0/match", "a/0/lr", "a/0/decay", "a/0/start", "a/1/0"]


def test_an_unknown_optimizer_says_which_exist():
  with pytest.raises(ValueError, match="config.optim.name 'adam' is unknown; choose one of adamw, lars, sgd"):
    make(name="adam")
