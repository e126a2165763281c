"""A tower: an encoder with heads above it, run over views. What every joint-embedding method is built on.

Parameters and running statistics are dicts by part, "encoder" and the names of the heads, so that a target
network is a dict of some of the parts.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jepa import views
from jepa.models import backbone
from jepa.schedules import Schedule
from jepa.types import Extra, Features, Method, Params, StatefulNet, Stats


class Tower(NamedTuple):
  """Images are uint8 or floats in [0, 1]; they are standardised inside."""

  init: Callable[[jax.Array, jax.Array], tuple[Params, Stats]]      # (key, image [B H W C])
  apply: Callable[..., tuple[dict[str, jax.Array], Stats]]          # see `make`
  features: Callable[..., tuple[Features, Stats]]                   # (params, stats, image), training
  embed: Callable[[Params, Stats, jax.Array], Features]             # the same, evaluation


def make(*, encoder: Mapping, heads: Mapping[str, StatefulNet] = {}, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25) -> Tower:
  """A tower.

  apply(params, stats, groups, parts=all) -> ({"encoder": [V B D], head: [V B D], ...}, stats) in training
  mode, over groups of views [V B H W C] (groups differ in image size). Batch statistics are those of one view
  over the global batch, as in the released code of most papers; the running ones move by their mean, once a
  group.

  Args:
    encoder: keyword arguments of backbone.make. heads: in order, each upon the one before it.
    mean, std: of pixels in [0, 1], by channel.
  """
  enc = backbone.make(**encoder)
  prepare = lambda image: views.standardise(image, mean, std)

  def init(key, image):
    keys = jax.random.split(key, 1 + len(heads))
    x = prepare(image)
    params, stats = {}, {}
    params["encoder"], stats["encoder"] = enc.init(keys[0], x)
    h = enc.apply(params["encoder"], stats["encoder"], x, train=False)[0].pooled
    for k, (name, head) in zip(keys[1:], heads.items()):
      params[name], stats[name] = head.init(k, h)
      h = head.apply(params[name], stats[name], h, train=False)[0]
    return params, stats

  def apply(params, stats, groups: Sequence[jax.Array], parts: Sequence[str] = ("encoder", *heads)):
    out, new = {}, dict(stats)
    pooled = []
    for group in groups:
      features, new["encoder"] = _each_view(enc, params["encoder"], new["encoder"], prepare(group))
      pooled.append(features.pooled)
    out["encoder"] = h = jnp.concatenate(pooled)
    for name in parts[1:]:
      h, new[name] = _each_view(heads[name], params[name], stats[name], h)
      out[name] = h
    return out, new

  def features(params, stats, image):
    f, new = enc.apply(params["encoder"], stats["encoder"], prepare(image), train=True)
    return f, stats | {"encoder": new}

  def embed(params, stats, image):
    return enc.apply(params["encoder"], stats["encoder"], prepare(image), train=False)[0]

  return Tower(init, apply, features, embed)


def _each_view(net: StatefulNet, params, stats, x: jax.Array) -> tuple[Any, Stats]:
  """(outputs [V B ...], stats) of views x [V B ...]."""
  if not jax.tree.leaves(stats):
    # Without statistics views are only more examples, and products of flat ones are faster on a CPU.
    out, stats = net.apply(params, stats, x.reshape(-1, *x.shape[2:]), train=True)
    return jax.tree.map(lambda o: o.reshape(*x.shape[:2], *o.shape[1:]), out), stats
  out, new = jax.vmap(lambda view: net.apply(params, stats, view, train=True))(x)
  return out, jax.tree.map(lambda s: s.mean(0), new)


def method(tower: Tower, loss: Callable) -> Method:
  """The method of one tower and a loss. `extra` is the tower's running statistics."""
  return Method(init=lambda key, batch: tower.init(key, batch["image"]), loss=loss,
                post=lambda params, extra, step: extra,
                embed=lambda params, extra, batch: tower.embed(params, extra, batch["image"]))


def with_target(tower: Tower, loss: Callable, momentum: Schedule, parts: Sequence[str], *,
                embed_target: bool = False, more: Callable | None = None) -> Method:
  """The method of a tower and its exponential moving average, target <- m target + (1 - m) online after each
  step: extra["target"] holds `parts` of the parameters and extra["target_stats"] their statistics, beside
  the tower's own.

  Args:
    momentum: m by step. embed_target: evaluation sees the target.
    more: (params, extra, step or None at the start) -> further entries of `extra`, after each step.
  """
  def init(key, batch):
    params, stats = tower.init(key, batch["image"])
    pick = lambda tree: jax.tree.map(jnp.copy, {k: tree[k] for k in parts})
    extra = stats | {"target": pick(params), "target_stats": pick(stats)}
    return params, extra | (more(params, extra, None) if more else {})

  def post(params, extra, step):
    online = {k: params[k] for k in parts}
    extra = extra | {"target": optax.incremental_update(online, extra["target"], 1 - momentum(step))}
    return extra | (more(params, extra, step) if more else {})

  def embed(params, extra, batch):
    if embed_target:
      return tower.embed(extra["target"], extra["target_stats"], batch["image"])
    return tower.embed(params, extra, batch["image"])

  return Method(init, loss, post, embed)


def of_target(tower: Tower, extra: Extra, groups: Sequence[jax.Array],
              parts: Sequence[str]) -> tuple[dict[str, jax.Array], Extra]:
  """(outputs, extra) of the target that `with_target` keeps of `parts`; arguments as of the tower's apply."""
  out, stats = tower.apply(extra["target"], extra["target_stats"], groups, parts)
  return out, extra | {"target_stats": stats}
