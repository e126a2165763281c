"""Method -> Method: what a run adds around a paper's functions, which know nothing of it.

  on_the_fly     batches hold indices, and the examples are made on the device
  standardised   actions and positions in standard deviations of the training data
  remembering    the last latents stay in the state, to plan with

What a wrapper keeps is an entry of `extra` with a name of its own, saved and restored with the model.
"""
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.types import Extra, Method, WorldModel


def on_the_fly(method: Method, generate: Callable) -> Method:
  """The method over batches of indices; `generate` makes an example of an index int32 []."""
  whole = lambda batch: dict(batch) | jax.vmap(generate)(batch["index"])
  return method._replace(
      init=lambda key, batch: method.init(key, whole(batch)),
      loss=lambda params, extra, batch, key: method.loss(params, extra, whole(batch), key),
      embed=lambda params, extra, batch: method.embed(params, extra, whole(batch)))


# ---- standardised ----

def standardised(method: Method, normaliser: Mapping) -> Method:
  """The method over standardised actions and positions; extra["normaliser"] has their means and deviations,
  {"action", "position"} -> {"mean", "std"} f32 [C]."""
  seen = lambda extra, batch: dict(batch) | {
      k: standardise(extra, k, v) for k, v in batch.items() if k in extra["normaliser"]}

  def init(key, batch):
    own = {"normaliser": jax.tree.map(jnp.asarray, dict(normaliser))}
    params, extra = method.init(key, seen(own, batch))
    return params, extra | own

  def loss(params, extra, batch, key):
    rest = _without(extra, "normaliser")
    value, (rest, metrics) = method.loss(params, rest, seen(extra, batch), key)
    return value, (rest | {"normaliser": extra["normaliser"]}, metrics)

  def post(params, extra, step):
    rest = method.post(params, _without(extra, "normaliser"), step)
    return rest | {"normaliser": extra["normaliser"]}

  def embed(params, extra, batch):
    return method.embed(params, _without(extra, "normaliser"), seen(extra, batch))
  return Method(init, loss, post, embed)


def standardise(extra: Extra, name: str, x: jax.Array) -> jax.Array:
  """An "action" or a "position" [... C] in standard deviations from the mean of the training data, as the
  model was trained on; as it is where the model was trained without."""
  moments = jax.lax.stop_gradient(extra.get("normaliser", {}).get(name))
  return x if moments is None else (x - moments["mean"]) / moments["std"]


def of_raw_actions(model: WorldModel) -> WorldModel:
  """The world model whose `predict` takes actions as the world does and standardises them as training did."""
  return model._replace(predict=lambda params, extra, z, action: model.predict(
      params, extra, z, standardise(extra, "action", action)))


# ---- remembering ----

class Memory(NamedTuple):
  """Latents that were reached: the last C of them, in a ring."""

  latents: jax.Array      # f32 [C D]
  count: jax.Array        # int32 []: how many were ever added


def empty(capacity: int, width: int) -> Memory:
  """A memory without latents.

  Raises:
    ValueError: no room.
  """
  if capacity < 1 or width < 1:
    raise ValueError(f"a memory of {capacity} latents of width {width} holds nothing; give at least "
                     "1 of each")
  return Memory(jnp.zeros((capacity, width)), jnp.int32(0))


def add(memory: Memory, latents: jax.Array) -> Memory:
  """With latents [N D], the oldest overwritten where there is no room.

  Raises:
    ValueError: more latents than the capacity.
  """
  capacity = len(memory.latents)
  if len(latents) > capacity:
    raise ValueError(f"{len(latents)} latents at once are more than the capacity {capacity}; add fewer, or "
                     "enlarge the memory")
  slots = (memory.count + jnp.arange(len(latents))) % capacity
  return Memory(memory.latents.at[slots].set(latents), memory.count + len(latents))


def remembering(method: Method, capacity: int) -> Method:
  """The method with extra["memory"]: what it made of its last `capacity` examples, each by the weights of the
  step that saw it. The oldest is capacity / batch steps behind the weights of the state."""
  def init(key, batch):
    params, extra = method.init(key, batch)
    width = jax.eval_shape(method.embed, params, extra, batch).pooled.shape[-1]
    return params, extra | {"memory": empty(capacity, width)}

  def loss(params, extra, batch, key):
    rest = _without(extra, "memory")
    value, (after, metrics) = method.loss(params, rest, batch, key)
    z = jax.lax.stop_gradient(method.embed(params, rest, batch).pooled)
    return value, (after | {"memory": add(extra["memory"], z.astype(jnp.float32))}, metrics)

  return method._replace(init=init, loss=loss, post=lambda params, extra, step: method.post(
      params, _without(extra, "memory"), step) | {"memory": extra["memory"]})


def _without(extra: Extra, name: str) -> Extra:
  return {k: v for k, v in extra.items() if k != name}
