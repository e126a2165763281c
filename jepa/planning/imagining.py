"""What a world model imagines, and where it sees a goal: pure functions to be jitted together.

Shape letters: N problems, H horizon, D numbers of a latent, P numbers of a position.
"""
from collections.abc import Callable
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from jepa import planning, worlds
from jepa.planning.agents import Latents, placed
from jepa.types import Extra, Params, WorldModel
from jepa.worlds import World


def imagined(world: World, model: WorldModel, params: Params, extra: Extra, key: jax.Array, *, horizon: int,
             episodes: int = 64) -> dict[str, jax.Array]:
  """Open loop: mean distance of imagined and encoded states after 1 ... H training actions, f32 [H], and of
  the first state and the encoded ones ("still", the floor of a model that says nothing moves)."""

  def one(key):
    k_start, k_act = jax.random.split(key)
    start = world.reset(k_start)
    actions = world.behave(k_act, start, horizon)
    states = worlds.rollout(world, start, actions)
    encode = lambda state: model.encode(params, extra, world.render(state)[None])
    truth = jax.lax.map(encode, states)
    first = jax.tree.map(lambda x: x[0], truth)

    def step(z, turn):
      a, real = turn
      z = model.predict(params, extra, z, a[None])
      return z, (model.distance(z, real)[0], model.distance(first, real)[0])
    return jax.lax.scan(step, first, (actions, jax.tree.map(lambda x: x[1:], truth)))[1]

  model_error, still = jax.jit(lambda k: jax.lax.map(one, jax.random.split(k, episodes)))(key)
  return {"imagined": model_error.mean(0), "still": still.mean(0)}


def paths(world: World, model: WorldModel, params: Params, extra: Extra, starts: Any, key: jax.Array, *,
          horizon: int) -> tuple[jax.Array, jax.Array]:
  """(positions [N H+1 P] where training actions lead, latents [N H+1 D] imagined of them) from N starts."""
  flat = lambda z: ravel_pytree(z)[0]

  def one(turn):
    start, key = turn
    actions = world.behave(key, start, horizon)
    states = worlds.rollout(world, start, actions)
    z = model.encode(params, extra, world.render(start)[None])

    def step(z, a):
      z = model.predict(params, extra, z, a[None])
      return z, flat(z)
    latents = jnp.concatenate([flat(z)[None], jax.lax.scan(step, z, actions)[1]])
    return jax.vmap(world.position)(states), latents

  keys = jax.random.split(key, len(jax.tree.leaves(starts)[0]))
  return jax.lax.map(one, (starts, keys))


# ---- distances and energies ----

def landscape(world: World, observe: Callable, aim: Callable, latents: Latents, starts: Any, goals: Any,
              side: int = 33) -> jax.Array:
  """f32 [N side side] of N problems, rows along y: the distance to the goal from all over the picture.

  Raises:
    ValueError: a world whose state is more than a position and a layout.
  """
  axes = (jnp.linspace(0, n - 1, side) for n in world.image[1::-1])
  places = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)

  def one(problem):
    start, goal = problem
    goal = latents.of_goal(aim(goal))
    of = lambda p: latents.distance(latents.of_context(observe(placed(world, start, p))), goal)
    return jax.lax.map(of, places)

  return jax.lax.map(one, (starts, goals)).reshape(-1, side, side)


def held(world: World, energy: planning.Energy, observe: Callable, aim: Callable, starts: Any, goals: Any, *,
         horizon: int, side: int = 25) -> jax.Array:
  """f32 [N side side] of N problems: the energy of an action held for the horizon, over its first two numbers
  within the limits of the world, the second along rows, any others 0; nan where it is longer than an action
  may be."""
  axes = [np.linspace(world.actions.low[i], world.actions.high[i], side) for i in (1, 0)]
  two = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1).reshape(-1, 2)
  actions = jnp.asarray(np.pad(two, ((0, 0), (0, len(world.actions.low) - 2))), jnp.float32)

  def one(problem):
    context, goal = observe(problem[0]), aim(problem[1])
    of = lambda a: energy(context, jnp.broadcast_to(a, (horizon, len(a))), goal)
    return jax.lax.map(of, actions, batch_size=side)

  longest = (world.actions.norm or np.inf) * (1 + 1e-6)
  found = jnp.where(np.linalg.norm(two, axis=1) <= longest, jax.lax.map(one, (starts, goals)), jnp.nan)
  return found.reshape(-1, side, side)


# ---- positions read from latents ----

def placings(world: World, observe: Callable, latents: Latents, key: jax.Array, *, count: int = 64,
             length: int = 17) -> tuple[jax.Array, jax.Array]:
  """(latents [count length D], positions [count length P]) along trajectories of the training behaviour."""

  def one(key):
    k_start, k_act = jax.random.split(key)
    start = world.reset(k_start)
    states = worlds.rollout(world, start, world.behave(k_act, start, length - 1))
    return jax.lax.map(lambda s: (latents.of_context(observe(s)), world.position(s)), states)

  return jax.lax.map(one, jax.random.split(key, count))


def probe(z: np.ndarray, y: np.ndarray, *,
          penalty: float = 1e-3) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
  """(latent [... D] -> position [... P], share of the variance of held-out positions that it explains): ridge
  regression of y [N T P] on standardised z [N T D], the last quarter of the N held out."""
  cut = len(z) - len(z) // 4
  flat = lambda x: np.asarray(x, np.float64).reshape(-1, x.shape[-1])
  z_fit, z_test, y_fit, y_test = flat(z[:cut]), flat(z[cut:]), flat(y[:cut]), flat(y[cut:])
  mean, std, centre = z_fit.mean(0), z_fit.std(0) + 1e-6, y_fit.mean(0)
  x = (z_fit - mean) / std
  weight = np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ (y_fit - centre))
  read = lambda z: (np.asarray(z, np.float64) - mean) / std @ weight + centre
  return read, float(1 - np.square(read(z_test) - y_test).sum() / np.square(y_test - y_test.mean(0)).sum())
