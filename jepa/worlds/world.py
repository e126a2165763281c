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


def trajectory(world: World, length: int, seed: int, index: jax.Array, *,
               span: int = 0) -> dict[str, jax.Array]:
  """Example `index` int32 [] of the training data of a world, a pure function of (seed, index): "image" uint8
  [T H W C], "action" f32 [T-1 A] and "position" f32 [T P] of `length` T frames.

  Args:
    span: frames of what a trajectory is a window of, at a place drawn for it, so that it may begin where the
      behaviour has led, such as at a wall; 0: it begins where the behaviour does.
  """
  key = jax.random.fold_in(jax.random.key(seed), index)
  start, behaviour = jax.random.split(key)
  state = world.reset(start)
  actions = world.behave(behaviour, state, (span or length) - 1)
  states = rollout(world, state, actions)
  if span:
    first = jax.random.randint(jax.random.fold_in(key, 2), (), 0, span - length + 1)
    window = lambda x, count: jax.lax.dynamic_slice_in_dim(x, first, count)
    states, actions = jax.tree.map(lambda x: window(x, length), states), window(actions, length - 1)
  return {"image": jax.vmap(world.render)(states), "action": actions,
          "position": jax.vmap(world.position)(states)}
