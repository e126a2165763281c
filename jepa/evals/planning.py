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

  Episodes take turns, `chunk` of them a compiled call, those with the fewest looks first; one that has succeeded
  gives its place to another. What happens in an episode does not depend on the others.

  Args:
    chunk: episodes that look and act at once.
  """
  policy, count, steps = agent.policy, protocol.episodes, protocol.budget
  allowed, chunk = np.asarray(control.schedule(policy, steps)), min(chunk, count)
  begin = control.begin(policy, done=world.success)
  look = control.look(policy, step=world.step, observe=agent.observe, done=world.success)

  @jax.jit
  def start(keys_problem, keys):
    first, target = jax.vmap(world.problem)(keys_problem)
    return jax.vmap(begin)(keys, first, target), jax.vmap(agent.aim)(target), target

  def turn(running, which, key, looks, allowed, goals, targets):
    pick = lambda tree: jax.tree.map(lambda x: x.at[which].get(mode="clip"), tree)
    after, turn = jax.vmap(look)(keys_of(key, which, looks), pick(running), pick(goals), pick(targets), allowed)
    return jax.tree.map(lambda old, new: old.at[which].set(new, mode="drop"), running, after), turn

  key = jax.random.fold_in(jax.random.key(protocol.seed), 1)
  looks = np.zeros(count, np.int32)
  running, goals, targets = start(problem_keys(protocol), keys_of(key, np.arange(count), len(allowed) + looks))
  turn = jax.jit(turn, donate_argnums=0).lower(
      running, np.arange(chunk, dtype=np.int32), key, looks[:chunk], allowed[looks[:chunk]], goals, targets).compile()
  record = _record(jax.device_get(running.state), world, allowed.shape)
  bar = tqdm(total=count, desc=title or "episodes", unit="episode", leave=False, delay=2.0,
             disable=not sys.stderr.isatty())
  clock = time.perf_counter()
  while True:
    pending = np.flatnonzero(~np.asarray(running.finished) & (looks < len(allowed)))
    bar.update(count - len(pending) - bar.n)
    if not len(pending):
      break
    pending = pending[np.argsort(looks[pending], kind="stable")][:chunk]
    which = np.pad(pending, (0, chunk - len(pending)), constant_values=count).astype(np.int32)    # filled with nobody
    at = np.pad(looks[pending], (0, chunk - len(pending)))
    running, found = turn(running, which, key, at, allowed[at], goals, targets)
    _write(record, pending, looks[pending], jax.device_get(found))
    looks[pending] += 1
  seconds = time.perf_counter() - clock
  bar.close()
  running = jax.device_get(running)
  episode = record._replace(
      states=jax.tree.map(lambda x: x[:, :steps + 1], record.states), actions=record.actions[:, :steps],
      live=record.live[:, :steps], done=running.finished, memory=running.memory)
  return scores(episode, seconds), episode


def scores(episode: control.Episode, seconds: float) -> dict[str, Any]:
  """The numbers of episodes that took `seconds`: success rate with its interval, steps to success."""
  done, steps = np.asarray(episode.done), np.asarray(episode.live).sum(1)
  low, high = wilson(int(done.sum()), len(done))
  return {"success": float(done.mean()), "successes": int(done.sum()), "episodes": len(done), "low": low,
          "high": high, "steps_to_success": float(steps[done].mean()) if done.any() else None,
          "seconds_per_episode": seconds / len(done)}


def keys_of(key: jax.Array, episodes: jax.Array, looks: jax.Array) -> jax.Array:
  """The key of each episode's look, both int32 [B]: whichever others share its turn."""
  return jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(episodes, looks)


def _record(first, world: World, looks: tuple[int, int]) -> control.Episode:
  """Episodes [B ...] in which nothing has happened yet, of (looks, actions a look)."""
  count, steps = len(jax.tree.leaves(first)[0]), looks[0] * looks[1]
  return control.Episode(
      jax.tree.map(lambda x: np.repeat(np.asarray(x)[:, None], steps + 1, 1), first),
      np.zeros((count, steps, len(world.actions.low)), np.float32), np.zeros((count, steps), bool),
      np.full((count, looks[0]), np.inf, np.float32), None, None)


def _write(record: control.Episode, episodes: np.ndarray, looks: np.ndarray, turn: control.Turn) -> None:
  """Enters a turn of `episodes`, the `looks`-th of each; the last state stands for all that follow."""
  every = turn.live.shape[1]
  for place, (i, n) in enumerate(zip(episodes, looks)):
    now = slice(n * every, (n + 1) * every)
    record.actions[i, now], record.live[i, now] = turn.actions[place], turn.live[place]
    record.energies[i, n] = turn.energy[place]
    for states, new in zip(jax.tree.leaves(record.states), jax.tree.leaves(turn.states)):
      states[i, now.start + 1:now.stop + 1] = new[place]
      states[i, now.stop + 1:] = new[place, -1]


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
