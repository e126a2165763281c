"""Two levels in a world: subgoals from a memory of what was reached (jepa/planning/subgoals.py).

Shape letters: D numbers of a latent, N latents.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa import planning, worlds, wrappers
from jepa.planning import control, subgoals
from jepa.planning.agents import Latents
from jepa.worlds import World
from jepa.wrappers import Memory


class Level(NamedTuple):
  """The upper of two levels."""

  memory: Memory                                              # to begin with
  propose: Callable[[Memory], subgoals.Proposer]
  remember: Callable[[Memory, control.Episode], Memory]       # with what episodes visited


def level(world: World, observe: Callable, latents: Latents, key: jax.Array, known: jax.Array | None = None,
          *, kind: str, horizon: int, every: int, capacity: int = 1024, apart: float = 1.0,
          trajectories: int = 128, length: int = 33, **settings) -> Level:
  """Subgoals from a memory that episodes add to.

  Args:
    known: latents [N D] to begin with; None: those that the behaviour of the training data reaches.
    every: actions from one look to the next; what is seen then is remembered.
    capacity, apart: most latents, and how far they are from each other at least, in steps of the training
      behaviour.
    trajectories, length: of the training behaviour, for that step and to begin with.
    settings: of `proposer`.
  """
  seen, unit = explored(world, observe, latents, key, trajectories=trajectories, length=length)
  effort, visits = cost(latents, unit), visited(observe, latents, every)
  add = lambda memory, z: subgoals.spread(memory, z, effort, apart)
  begin = jax.jit(lambda z: add(wrappers.empty(capacity, z.shape[-1]), z))
  return Level(begin(seen if known is None else known),
               lambda memory: proposer(kind, memory, latents, unit, horizon=horizon, **settings),
               lambda memory, episode: add(memory, visits(episode)))


def explored(world: World, observe: Callable, latents: Latents, key: jax.Array, *, trajectories: int,
             length: int) -> tuple[jax.Array, jax.Array]:
  """(latents f32 [trajectories * length, D] that the behaviour of the training data reaches, their unit: the
  median root of the distance between one and the next of them that moved)."""

  def one(key):
    k_start, k_act = jax.random.split(key)
    start = world.reset(k_start)
    states = worlds.rollout(world, start, world.behave(k_act, start, length - 1))
    return jax.lax.map(lambda state: latents.of_context(observe(state)), states)

  @jax.jit
  def all_of_them(key):
    z = jax.lax.map(one, jax.random.split(key, trajectories))
    moved = jax.vmap(jax.vmap(latents.distance))(z[:, :-1], z[:, 1:])
    return z.reshape(-1, z.shape[-1]), jnp.sqrt(jnp.nanmedian(jnp.where(moved > 0, moved, jnp.nan)))

  return all_of_them(key)


def visited(observe: Callable, latents: Latents, every: int) -> Callable[[control.Episode], jax.Array]:
  """Latents f32 [N D] of every so many-th state of episodes."""
  def found(episode):
    states = jax.tree.map(lambda x: x[:, ::every].reshape(-1, *x.shape[2:]), episode.states)
    return jax.lax.map(lambda state: latents.of_context(observe(state)), states)
  return found


def cost(latents: Latents, unit: jax.Array) -> subgoals.Cost:
  """The root of the distance, in steps of the training behaviour: an effort only between near latents."""
  return lambda a, b: jnp.sqrt(jnp.maximum(latents.distance(a, b), 0.0)) / unit


def proposer(kind: str, memory: Memory, latents: Latents, unit: jax.Array, *, horizon: int,
             longest: float = 2.0, neighbours: int = 0, reached: float = 0.0, ahead: float = 0.0,
             count: int = 4, power: float = 4.0, samples: int = 200, elites: int = 20,
             iterations: int = 8) -> subgoals.Proposer:
  """Subgoals out of a memory; lengths in steps of the training behaviour.

  Args:
    kind: "memory", the cheapest path through it; "search", the cross-entropy method over sequences of latents
      that each stand for the nearest one in it.
    horizon: actions a plan.
    longest, neighbours, reached, ahead: of subgoals.remembered. A latent's distance says nothing of the walls
      between; a `longest` below the thickness of walls makes it a path. neighbours 0: all. ahead 0:
      `horizon`, which is within reach, since an action may be longer than most of the training's.
    count, power, samples, elites, iterations: subgoals of a search, the power of the cost that is summed, and
      how it searches.

  Raises:
    ValueError: another kind.
  """
  effort = cost(latents, unit)
  if kind == "memory":
    inner = subgoals.remembered(memory, effort, neighbours=neighbours or len(memory.latents), longest=longest,
                                reached=reached, ahead=ahead or horizon)
    white = plain = lambda z: z
  elif kind == "search":
    # in units of the memory's own spread, so that one std fits all dimensions
    share = subgoals.filled(memory)[:, None] / jnp.maximum(subgoals.filled(memory).sum(), 1)
    mean = (share * memory.latents).sum(0)
    std = jnp.maximum(jnp.sqrt((share * jnp.square(memory.latents - mean)).sum(0)), 1e-6)
    white, plain = lambda z: (z - mean) / std, lambda z: mean + std * z
    known = memory._replace(latents=white(memory.latents))
    energy = subgoals.chain(lambda a, b: effort(plain(a), plain(b)) ** power, known)
    box = planning.Limits(*(np.full(len(mean), side, np.float32) for side in (-4, 4)))
    inner = subgoals.searched(planning.make("cem", energy=energy, limits=box, horizon=count, samples=samples,
                                            elites=elites, iterations=iterations, best=True), known)
  else:
    raise ValueError(f"--subgoals={kind}: choose memory or search")

  def propose(key, context, goal, state):
    context, goal = latents.of_context(context), latents.of_goal(goal)
    subgoal, state = inner.propose(key, white(context), white(goal), state)
    return latents.back(plain(subgoal)), state

  return subgoals.Proposer(inner.init, propose)
