"""Optimizers from a config: AdamW, LARS and SGD by optax, scheduled learning rate and weight decay,
groups by path.

Weight decay and LARS's trust ratio apply to weights only: leaves named `kernel`. Biases, norms, positions and
tokens are left out, as every paper here has it. (Rank does not tell: a bias of stacked layers has two
dimensions.)
"""
from collections.abc import Mapping, Sequence
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jepa import schedules
from jepa.types import PyTree

NAMES = ("adamw", "lars", "sgd")


class Group(NamedTuple):
  """Leaves whose path matches the regular expression `match` (first group that matches wins)."""

  match: str
  lr: float = 1.0         # factor on the learning rate; 0 freezes
  decay: float = 1.0      # factor on the weight decay
  start: int = 0          # steps before which the group is frozen


def path_of(path) -> str:
  """A tree path as "encoder/blocks/up/kernel"."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def make(
    *, name: str = "adamw", lr: Mapping, weight_decay: Mapping | float = 0.0, steps: int, b1: float = 0.9,
    b2: float = 0.999, eps: float = 1e-8, momentum: float = 0.9, trust: float = 0.001, clip: float = 0.0,
    groups: Sequence[Mapping] = ()) -> tuple[optax.GradientTransformation, dict[str, schedules.Schedule]]:
  """(optimizer, the schedules by name for logging).

  Args:
    lr, weight_decay: keyword arguments of schedules.make, or a number for the decay.
    clip: largest global gradient norm; 0 does not clip.
    groups: keyword arguments of `Group`, each a dict.
  """
  if name not in NAMES:
    raise ValueError(f"config.optim.name {name!r} is unknown; choose one of {', '.join(NAMES)}")
  weight_decay = weight_decay if isinstance(weight_decay, Mapping) else dict(value=weight_decay)
  rate = schedules.make(**lr, steps=steps)
  decay = schedules.make(**weight_decay, steps=steps)
  groups = tuple(Group(**g) for g in groups)

  decayed = _add_scheduled_decay(decay, groups)
  if name == "adamw":       # decoupled: decay joins after the moments
    core = [optax.scale_by_adam(b1, b2, eps), decayed]
  elif name == "lars":  # arXiv 1708.03888: decay joins the gradient, then the layer-wise ratio, then momentum
    core = [decayed, _scale_by_trust_ratio(trust)]
  else:
    core = [decayed, optax.trace(momentum)]
  chain = [optax.clip_by_global_norm(clip)] if clip else []
  chain += core + [_scale_by_group(groups), optax.scale_by_learning_rate(rate)]
  chain += [optax.trace(momentum)] if name == "lars" else []
  return optax.chain(*chain), {"lr": rate, "weight_decay": decay}


def _group(path, groups) -> Group:
  return next((g for g in groups if re.search(g.match, path_of(path))), Group(""))


class ScheduledDecay(NamedTuple):
  count: jax.Array


def _add_scheduled_decay(decay, groups) -> optax.GradientTransformation:
  def update(updates, state, params):
    weight = decay(state.count)
    def one(path, u, p):
      factor = _group(path, groups).decay if path_of(path).endswith("kernel") else 0.0
      return u + (weight * factor).astype(u.dtype) * p if factor else u
    return jax.tree_util.tree_map_with_path(one, updates, params), ScheduledDecay(state.count + 1)
  return optax.GradientTransformation(lambda params: ScheduledDecay(jnp.zeros((), jnp.int32)), update)


def _scale_by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
  """LARS's ratio of norms, weight over update, for each kernel;
  of stacked layers (under "blocks") for each layer."""
  def one(path, u, p):
    if not path_of(path).endswith("kernel"):
      return u
    axes = tuple(range(1 if "blocks/" in path_of(path) else 0, p.ndim))
    norm = lambda x: jnp.sqrt(jnp.square(x).sum(axes, keepdims=True))
    weight, update = norm(p), norm(u)
    return u * jnp.where((weight > 0) & (update > 0),
                         coefficient * weight / jnp.where(update > 0, update, 1.0), 1.0)
  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(one, updates, params))


class GroupSteps(NamedTuple):
  count: jax.Array


def _scale_by_group(groups) -> optax.GradientTransformation:
  if not groups:
    return optax.identity()
  def update(updates: PyTree, state, params=None):
    del params
    def one(path, u):
      group = _group(path, groups)
      return u * (group.lr * jnp.where(state.count >= group.start, 1.0, 0.0)).astype(u.dtype)
    return jax.tree_util.tree_map_with_path(one, updates), GroupSteps(state.count + 1)
  return optax.GradientTransformation(lambda params: GroupSteps(jnp.zeros((), jnp.int32)), update)
