"""What a world is: a simulator, its pictures and its protocol, as pure functions of keys and states.

A state is a NamedTuple of arrays that holds everything, the layout too, so that a world itself holds nothing.
All functions take one state and can be jitted and vmapped.

Shape letters: A numbers in an action, P numbers in a position, T steps, H W C image.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

State = Any      # a NamedTuple of arrays


class Actions(NamedTuple):
  """What an action may be: a box, and within it a disc."""

  low: np.ndarray                 # f32 [A]
  high: np.ndarray                # f32 [A]
  norm: float = 0.0               # largest Euclidean length; 0: no such limit


class World(NamedTuple):
  """An environment with its published protocol."""

  name: str
  version: int                    # raised with every change of dynamics, pictures or samplers; numbers of
                                  # different versions are not comparable
  actions: Actions
  image: tuple[int, int, int]     # H W C
  reset: Callable[[jax.Array], State]                                 # (key) -> a random layout and start
  step: Callable[[State, jax.Array], State]                           # (state, action [A]); clips the action
  render: Callable[[State], jax.Array]                                # (state) -> uint8 [H W C]
  position: Callable[[State], jax.Array]                              # (state) -> f32 [P], the truth that
                                                                      # evaluation and proprioception see
  problem: Callable[[jax.Array], tuple[State, State]]                 # (key) -> start, goal; one layout
  success: Callable[[State, State], jax.Array]                        # (state, goal) -> bool []
  behave: Callable[[jax.Array, State, int], jax.Array]                # (key, state, T) -> actions [T A] of
                                                                      # training data; T is static
  controller: Callable[[State, State], jax.Array]                     # (state, goal) -> action [A]: straight
                                                                      # at the goal, the naive floor
  budget: int                     # steps the protocol allows


def clip(actions: Actions, a: jax.Array) -> jax.Array:
  """a [... A] cut to the box, then shortened to the largest length."""
  a = jnp.clip(a, actions.low, actions.high)
  if not actions.norm:
    return a
  square, limit = jnp.square(a).sum(-1, keepdims=True), actions.norm**2
  return a * jnp.where(square > limit, jax.lax.rsqrt(jnp.maximum(square, limit)) * actions.norm, 1.0)


def rollout(world: World, state: State, actions: jax.Array) -> State:
  """The states [T+1 ...] that actions [T A] lead to, `state` first."""
  def one(s, a):
    s = world.step(s, a)
    return s, s
  _, after = jax.lax.scan(one, state, actions)
  return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state, after)
