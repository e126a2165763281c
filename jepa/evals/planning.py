"""Planning success under a frozen protocol: a policy acts in a world until it succeeds or its budget is spent.

A number is stored with its protocol (world and version, sampler of starts and goals, budget, seeds, planner), and
with its floors under the same one: a random policy, a straight line, the same planner with an untrained model, and
with the true simulator.

Shape letters: B episodes, H horizon, A action.
"""
from collections.abc import Callable, Mapping
import math
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jepa import planning
from jepa.planning import control
from jepa.types import Extra, Params, WorldModel
from jepa.worlds import World

VERSION = 1
RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE = ("random policy", "straight line", "untrained model",
                                                "trained model", "true simulator")
ROWS = (RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE)


class Protocol(NamedTuple):
  """Everything that a success rate depends on but the policy."""

  world: str
  world_version: int
  world_args: Mapping[str, Any]
  budget: int                       # steps of the world
  episodes: int
  seed: int                         # of layouts, starts and goals; episode i is the same for every policy
  sampler: str = "World.problem"
  success: str = "World.success, after any step; the policy does not see it"
  version: int = VERSION            # of this file


class Agent(NamedTuple):
  """A policy, what it sees of a state and of the goal's state."""

  policy: control.Policy
  observe: Callable[[Any], Any]
  aim: Callable[[Any], Any]


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
  """The 95 % confidence interval of a proportion (Wilson, 1927)."""
  p, n = successes / count, count
  centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def weights(horizon: int, last: int) -> np.ndarray:
  """f32 [H]: which imagined states count: the `last` ones, all for 0.

  Raises:
    ValueError: not 0 ... horizon.
  """
  if not 0 <= last <= horizon:
    raise ValueError(f"--last={last}: of a horizon of {horizon} the last 1 to {horizon} states count, all with 0")
  return (np.arange(horizon) >= (horizon - last if last else 0)).astype(np.float32)


def of_model(model: WorldModel, params: Params, extra: Extra, world: World, *, horizon: int,
             last: int = 0) -> tuple[planning.Energy, Callable, Callable]:
  """(energy, observe, aim) of a world model: the distance to the goal's latent state, summed over imagined
  states."""
  count = weights(horizon, last)
  look = lambda state: model.encode(params, extra, world.render(state)[None])

  def energy(z, actions_HA, goal):
    def step(z, turn):
      a, weight = turn
      z = model.predict(params, extra, z, a[None])
      return z, weight * model.distance(z, goal)[0]
    return jax.lax.scan(step, z, (actions_HA, count))[1].sum()

  return energy, look, look


def of_world(world: World, *, horizon: int, last: int = 0) -> tuple[planning.Energy, Callable, Callable]:
  """(energy, observe, aim) of the true simulator: the squared distance of positions, summed likewise."""
  count = weights(horizon, last)

  def energy(state, actions_HA, goal):
    def step(state, turn):
      a, weight = turn
      state = world.step(state, a)
      return state, weight * jnp.square(world.position(state) - goal).sum()
    return jax.lax.scan(step, state, (actions_HA, count))[1].sum()

  return energy, lambda state: state, world.position


def random(world: World) -> Agent:
  """The floor that sees nothing."""
  nothing = lambda state: jnp.zeros(())
  return Agent(control.random(planning.Limits(*world.actions)), nothing, nothing)


def straight(world: World) -> Agent:
  """The floor that knows both positions and no wall: the largest step towards the goal."""
  act = lambda key, state, goal, memory: (world.controller(state, goal)[None], jnp.array(jnp.inf), memory)
  return Agent(control.Policy(1, lambda key: (), act), lambda state: state, lambda state: state)


def planned(world: World, energy: planning.Energy, observe: Callable, aim: Callable, *, name: str, horizon: int,
            every: int = 1, **settings) -> Agent:
  """A planner over an energy. settings: of planning.make."""
  planner = planning.make(name, energy=energy, limits=planning.Limits(*world.actions), horizon=horizon, **settings)
  return Agent(control.planned(planner, every=every), observe, aim)


def problem_keys(protocol: Protocol) -> jax.Array:
  """Keys [episodes] of World.problem: what every policy is asked."""
  return jax.random.split(jax.random.fold_in(jax.random.key(protocol.seed), 0), protocol.episodes)


def run(world: World, agent: Agent, protocol: Protocol, *, chunk: int = 25,
        title: str = "") -> tuple[dict[str, Any], control.Episode]:
  """(numbers, what happened): success rate with its interval, steps to success, seconds.

  Args:
    chunk: episodes a compiled call.
  """
  loop = control.episodes(agent.policy, step=world.step, observe=agent.observe, done=world.success,
                          steps=protocol.budget)

  @jax.jit
  def episodes(keys_problem, key_policy):
    start, goal = jax.vmap(world.problem)(keys_problem)
    return loop(key_policy, start, jax.vmap(agent.aim)(goal), goal)

  k_policy = jax.random.fold_in(jax.random.key(protocol.seed), 1)
  count = protocol.episodes
  chunk = min(chunk, count)
  keys = problem_keys(protocol)[np.arange(-(-count // chunk) * chunk) % count]    # the last call is padded and cut
  found = []
  bar = tqdm(range(0, count, chunk), desc=title or "episodes", unit=f"x{chunk}", leave=False, delay=2.0,
             disable=not sys.stderr.isatty())
  compiled = episodes.lower(keys[:chunk], k_policy).compile()
  clock = time.perf_counter()
  for i in bar:
    found.append(jax.device_get(compiled(keys[i:i + chunk], jax.random.fold_in(k_policy, i))))
  seconds = time.perf_counter() - clock
  episode = jax.tree.map(lambda *x: np.concatenate(x)[:count], *found)
  return scores(episode, seconds), episode


def scores(episode: control.Episode, seconds: float) -> dict[str, Any]:
  """The numbers of episodes that took `seconds`: success rate with its interval, steps to success."""
  done, steps = np.asarray(episode.done), np.asarray(episode.live).sum(1)
  low, high = wilson(int(done.sum()), len(done))
  return {"success": float(done.mean()), "successes": int(done.sum()), "episodes": len(done), "low": low,
          "high": high, "steps_to_success": float(steps[done].mean()) if done.any() else None,
          "seconds_per_episode": seconds / len(done)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """The numbers by row as fixed-width text."""
  head = ["", "success", "95 % interval", "steps", "s an episode"]
  body = [[name, f"{100 * r['success']:.1f} %", f"{100 * r['low']:.1f} to {100 * r['high']:.1f}",
           "-" if r["steps_to_success"] is None else f"{r['steps_to_success']:.0f}",
           f"{r['seconds_per_episode']:.3g}"] for name, r in rows.items()]
  widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
  line = lambda texts: "  ".join(t.ljust(w) if i == 0 else t.rjust(w)
                                 for i, (t, w) in enumerate(zip(texts, widths))).rstrip()
  return "\n".join([line(head), "-" * len(line(head)), *map(line, body)])


def imagined(world: World, model: WorldModel, params: Params, extra: Extra, key: jax.Array, *, horizon: int,
             episodes: int = 64) -> dict[str, np.ndarray]:
  """Open loop: mean distance of imagined and encoded states after 1 ... H training actions, f32 [H], and of the
  first state and the encoded ones ("still", the floor of a model that says nothing moves)."""
  from jepa import worlds

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
  return {"imagined": np.asarray(model_error.mean(0)), "still": np.asarray(still.mean(0))}
