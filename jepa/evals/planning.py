"""Planning success under a frozen protocol: a policy acts in a world until it succeeds or its budget is spent.

A number is stored with its protocol (world and version, sampler of starts and goals, budget, seeds, planner), and
with its floors under the same one: a random policy, a straight line, the same planner with an untrained model, and
with the true simulator.

Shape letters: B episodes, H horizon, A action, D numbers of a latent, N latents.
"""
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
import math
import os
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jepa import planning
from jepa.planning import control, subgoals
from jepa.types import Extra, Params, WorldModel
from jepa.worlds import World

VERSION = 1
RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE = ("random policy", "straight line", "untrained model",
                                                "trained model", "true simulator")
ROWS = (RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE)

# context -> (dynamics, distance, first state) as of planning.STEPWISE
Steps = Callable[[Any], tuple[Callable, Callable, Any]]


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
            every: int = 1, dynamics: Steps | None = None, proposer: subgoals.Proposer | None = None,
            **settings) -> Agent:
  """A planner over an energy, or one of planning.STEPWISE over `dynamics`; towards what `proposer` proposes, where
  there is one. settings: of planning.make."""
  settings |= dict(limits=planning.Limits(*world.actions), horizon=horizon)
  planner = (stepwise(name, dynamics, **settings) if name in planning.STEPWISE else
             planning.make(name, energy=energy, **settings))
  if proposer is not None:
    planner = subgoals.two_level(proposer, planner)
  return Agent(control.planned(planner, every=every), observe, aim)


# ---- one step at a time, for planners that need no energy ----

def steps_of_model(model: WorldModel, params: Params, extra: Extra) -> Steps:
  """Of a world model: states are its latents."""
  dynamics = lambda z, a: model.predict(params, extra, z, a[None])
  return lambda z: (dynamics, lambda z, goal: model.distance(z, goal)[0], z)


def steps_of_world(world: World) -> Steps:
  """Of the true simulator: states are positions in the layout of the context.

  Raises:
    ValueError: when planning, a world whose state is more than a position and a layout.
  """
  def steps(state):
    dynamics = lambda p, a: world.position(world.step(placed(world, state, p), a))
    return dynamics, lambda p, goal: jnp.square(p - goal).sum(), world.position(state)
  return steps


def stepwise(name: str, dynamics: Steps, /, **settings) -> planning.Planner:
  """One of planning.STEPWISE in a world that may differ from context to context. settings: of that planner."""
  make = lambda step, distance: planning.make(name, dynamics=step, distance=distance, **settings)

  def plan(key, context, goal, plan):
    step, distance, first = dynamics(context)
    return make(step, distance).plan(key, first, goal, plan)

  return make(lambda z, a: z, lambda z, goal: jnp.zeros(()))._replace(plan=plan)


def placed(world: World, state: Any, position: jax.Array) -> Any:
  """`state` with the agent somewhere else.

  Raises:
    ValueError: a world whose state is more than a position and a layout.
  """
  if "position" not in getattr(state, "_fields", ()):
    raise ValueError(f"{world.name}: its state is more than a position and a layout, so that an agent cannot be put "
                     "at a position; choose two_rooms, wall or maze, or plan with --planner=mppi and without it")
  return state._replace(position=position)


# ---- subgoals: a memory of what was reached ----

class Latents(NamedTuple):
  """How what an agent sees becomes vectors that a memory can hold."""

  of_context: Callable[[Any], jax.Array]                        # context -> f32 [D]
  of_goal: Callable[[Any], jax.Array]                           # goal -> f32 [D]
  back: Callable[[jax.Array], Any]                              # f32 [D] -> goal
  distance: Callable[[jax.Array, jax.Array], jax.Array]         # f32 [D], f32 [D] -> f32 [], as a square grows


def latents_of_model(model: WorldModel, params: Params, extra: Extra, world: World) -> Latents:
  """Of a world model: all arrays of a latent state in a row."""
  shapes = jax.eval_shape(lambda image: model.encode(params, extra, image),
                          jax.ShapeDtypeStruct((1, *world.image), jnp.uint8))
  flat = lambda z: ravel_pytree(z)[0]
  back = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))[1]
  return Latents(flat, flat, back, lambda a, b: model.distance(back(a), back(b))[0])


def latents_of_world(world: World) -> Latents:
  """Of the true simulator: positions."""
  same = lambda position: position
  return Latents(world.position, same, same, lambda a, b: jnp.square(a - b).sum())


def explored(world: World, observe: Callable, latents: Latents, key: jax.Array, *, trajectories: int,
             length: int) -> tuple[jax.Array, jax.Array]:
  """(latents f32 [trajectories * length, D] that the behaviour of the training data reaches, their unit: the
  median root of the distance between one and the next of them that moved)."""
  from jepa import worlds

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


def cost(latents: Latents, unit: jax.Array) -> subgoals.Cost:
  """The root of the distance, in steps of the training behaviour: an effort only between near latents."""
  return lambda a, b: jnp.sqrt(jnp.maximum(latents.distance(a, b), 0.0)) / unit


def proposer(kind: str, memory: subgoals.Memory, latents: Latents, unit: jax.Array, *, horizon: int,
             longest: float = 2.0, neighbours: int = 0, reached: float = 0.0, ahead: float = 0.0, count: int = 4,
             power: float = 4.0, samples: int = 200, elites: int = 20, iterations: int = 8) -> subgoals.Proposer:
  """Subgoals out of a memory; lengths in steps of the training behaviour.

  Args:
    kind: "memory", the cheapest path through it; "search", the cross-entropy method over sequences of latents that
      each stand for the nearest one in it.
    horizon: actions a plan.
    longest, neighbours, reached, ahead: of subgoals.remembered. A latent's distance says nothing of the walls
      between; a `longest` below the thickness of walls makes it a path. neighbours 0: all. ahead 0: `horizon`, which
      is within reach, since an action may be longer than most of the training's.
    count, power, samples, elites, iterations: subgoals of a search, the power of the cost that is summed, and how it
      searches.

  Raises:
    ValueError: another kind.
  """
  effort = cost(latents, unit)
  if kind == "memory":
    inner = subgoals.remembered(memory, effort, neighbours=neighbours or len(memory.latents), longest=longest,
                                reached=reached, ahead=ahead or horizon)
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
    if kind == "search":
      subgoal, state = inner.propose(key, white(context), white(goal), state)
      return latents.back(plain(subgoal)), state
    subgoal, state = inner.propose(key, context, goal, state)
    return latents.back(subgoal), state

  return subgoals.Proposer(inner.init, propose)


class Level(NamedTuple):
  """The upper of two levels."""

  memory: subgoals.Memory                                                       # to begin with
  propose: Callable[[subgoals.Memory], subgoals.Proposer]
  remember: Callable[[subgoals.Memory, control.Episode], subgoals.Memory]       # with what episodes visited


def level(world: World, observe: Callable, latents: Latents, key: jax.Array, known: jax.Array | None = None, *,
          kind: str, horizon: int, every: int, capacity: int = 1024, apart: float = 1.0, trajectories: int = 128,
          length: int = 33, **settings) -> Level:
  """Subgoals from a memory that episodes add to.

  Args:
    known: latents [N D] to begin with; None: those that the behaviour of the training data reaches.
    every: actions from one look to the next; what is seen then is remembered.
    capacity, apart: most latents, and how far they are from each other at least, in steps of the training behaviour.
    trajectories, length: of the training behaviour, for that step and to begin with.
    settings: of `proposer`.
  """
  seen, unit = explored(world, observe, latents, key, trajectories=trajectories, length=length)
  effort, visits = cost(latents, unit), visited(observe, latents, every)
  add = lambda memory, z: subgoals.spread(memory, z, effort, apart)
  begin = jax.jit(lambda z: add(subgoals.empty(capacity, z.shape[-1]), z))
  return Level(begin(seen if known is None else known),
               lambda memory: proposer(kind, memory, latents, unit, horizon=horizon, **settings),
               lambda memory, episode: add(memory, visits(episode)))


def problem_keys(protocol: Protocol) -> jax.Array:
  """Keys [episodes] of World.problem: what every policy is asked."""
  return jax.random.split(jax.random.fold_in(jax.random.key(protocol.seed), 0), protocol.episodes)


def run(world: World, agent: Agent, protocol: Protocol, *, chunk: int = 25,
        title: str = "") -> tuple[dict[str, Any], control.Episode]:
  """(numbers, what happened): success rate with its interval, steps to success, seconds.

  Episodes take turns, `chunk` of them a compiled call, those with the fewest looks first; one that has succeeded
  gives its place to another. What happens in an episode does not depend on the others.

  Args:
    chunk: episodes that look and act at once; on each core of a CPU, since one program of so small arrays is no
      faster on many.
  """
  return learning(world, lambda nothing: agent, (), protocol, chunk=chunk, title=title)[:2]


def learning(world: World, agent: Callable[[Any], Agent], memory: Any, protocol: Protocol, *,
             remember: Callable[[Any, control.Episode], Any] | None = None, chunk: int = 25,
             title: str = "") -> tuple[dict[str, Any], control.Episode, Any]:
  """As `run`, and the memory at the end, of an agent that is made of a memory. With `remember`, a `chunk` of
  episodes ends before the next begins, with the memory that it makes of the old one and of them."""
  count, steps, chunk = protocol.episodes, protocol.budget, min(chunk, protocol.episodes)
  allowed = np.asarray(control.schedule(agent(memory).policy, steps))

  @jax.jit
  def start(memory, keys_problem, keys):
    made = agent(memory)
    begin = control.begin(made.policy, done=world.success)
    first, target = jax.vmap(world.problem)(keys_problem)
    return jax.vmap(begin)(keys, first, target), jax.vmap(made.aim)(target), target

  def turn(running, memory, which, key, looks, allowed, goals, targets):
    made = agent(memory)
    look = control.look(made.policy, step=world.step, observe=made.observe, done=world.success)
    pick = lambda tree: jax.tree.map(lambda x: x.at[which].get(mode="clip"), tree)
    after, turn = jax.vmap(look)(keys_of(key, which, looks), pick(running), pick(goals), pick(targets), allowed)
    return jax.tree.map(lambda old, new: old.at[which].set(new, mode="drop"), running, after), turn

  def act(running, memory, group):
    """`running`, in which the episodes of `group` have ended."""
    left = len(group)
    while not stop.is_set():
      pending = group[~np.asarray(running.finished)[group] & (looks[group] < len(allowed))]
      bar.update(left - len(pending))
      left = len(pending)
      if not left:
        break
      pending = pending[np.argsort(looks[pending], kind="stable")][:chunk]
      filled = dict(pad_width=(0, chunk - len(pending)))
      which = np.pad(pending, **filled, constant_values=count).astype(np.int32)       # with nobody
      at = np.pad(looks[pending], **filled)
      running, found = turn(running, memory, which, key, at, allowed[at], goals, targets)
      _write(record, pending, looks[pending], jax.device_get(found))
      looks[pending] += 1
    return running

  key = jax.random.fold_in(jax.random.key(protocol.seed), 1)
  looks, stop = np.zeros(count, np.int32), threading.Event()
  running, goals, targets = start(memory, problem_keys(protocol),
                                  keys_of(key, np.arange(count), len(allowed) + looks))
  turn = jax.jit(turn, donate_argnums=0).lower(running, memory, np.arange(chunk, dtype=np.int32), key, looks[:chunk],
                                               allowed[looks[:chunk]], goals, targets).compile()
  learn = jax.jit(remember) if remember else None
  record = _record(jax.device_get(running.state), world, allowed.shape)
  bar = tqdm(total=count, desc=title or "episodes", unit="episode", leave=False, delay=2.0,
             disable=not sys.stderr.isatty())
  clock = time.perf_counter()
  if remember:
    for group in np.split(np.arange(count), range(chunk, count, chunk)):
      running = act(running, memory, group)
      memory = learn(memory, jax.tree.map(lambda x: x[group], record))
  else:
    cores = min(processors(), -(-count // chunk))
    groups = [np.arange(i, count, cores) for i in range(cores)]
    copies = [jax.tree.map(lambda x: x.copy(), running) for _ in groups]      # each is given away, turn by turn
    with ThreadPoolExecutor(cores) as pool:
      futures = [pool.submit(act, running, memory, group) for running, group in zip(copies, groups)]
      try:
        wait(futures, return_when=FIRST_EXCEPTION)
      finally:
        stop.set()      # Ctrl-C or a failure: the others end with their turn
      parts = jax.device_get([f.result() for f in futures])
    running = jax.tree.map(lambda *xs: np.stack([xs[i % cores][i] for i in range(count)]), *parts)
  seconds = time.perf_counter() - clock
  bar.close()
  running = jax.device_get(running)
  cut = lambda x, n: x[:, :n]
  episode = record._replace(
      states=jax.tree.map(lambda x: cut(x, steps + 1), record.states), actions=cut(record.actions, steps),
      live=cut(record.live, steps), done=running.finished, memory=running.memory)
  return scores(episode, seconds), episode, memory


def processors() -> int:
  """How many programs are worth running at once: the cores that this process may use, 1 for an accelerator."""
  if jax.default_backend() != "cpu":
    return 1
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def visited(observe: Callable, latents: Latents, every: int) -> Callable[[control.Episode], jax.Array]:
  """Latents f32 [N D] of every so many-th state of episodes."""
  def found(episode):
    states = jax.tree.map(lambda x: x[:, ::every].reshape(-1, *x.shape[2:]), episode.states)
    return jax.lax.map(lambda state: latents.of_context(observe(state)), states)
  return found


def one_layout(world: World, protocol: Protocol) -> bool:
  """Whether the problems of a protocol differ in positions only, where the world says what a position is."""
  start, _ = jax.vmap(world.problem)(problem_keys(protocol))
  if "position" not in getattr(start, "_fields", ()):
    return True
  rest = start._replace(position=0.0)
  return all(bool((x == x[:1]).all()) for x in map(jnp.atleast_1d, jax.tree.leaves(rest)))


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
             episodes: int = 64) -> dict[str, jax.Array]:
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
  return {"imagined": model_error.mean(0), "still": still.mean(0)}


# ---- pictures: what they show, pure functions to be jitted together ----

def landscape(world: World, observe: Callable, aim: Callable, latents: Latents, starts: Any, goals: Any,
              side: int = 33) -> jax.Array:
  """f32 [N side side] of N problems, rows along y: the distance to the goal from positions all over the picture.

  Raises:
    ValueError: a world whose state is more than a position and a layout.
  """
  places = jnp.stack(jnp.meshgrid(*(jnp.linspace(0, n - 1, side) for n in world.image[1::-1])), -1).reshape(-1, 2)

  def one(problem):
    start, goal = problem
    goal = latents.of_goal(aim(goal))
    of = lambda p: latents.distance(latents.of_context(observe(placed(world, start, p))), goal)
    return jax.lax.map(of, places)

  return jax.lax.map(one, (starts, goals)).reshape(-1, side, side)


def held(world: World, energy: planning.Energy, observe: Callable, aim: Callable, starts: Any, goals: Any, *,
         horizon: int, side: int = 25) -> jax.Array:
  """f32 [N side side] of N problems: the energy of an action held for the horizon, over its first two numbers within
  the limits of the world, the second along rows, any others 0; nan where it is longer than an action may be."""
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


def placings(world: World, observe: Callable, latents: Latents, key: jax.Array, *, count: int = 64,
             length: int = 17) -> tuple[jax.Array, jax.Array]:
  """(latents [count length D], positions [count length P]) along trajectories of the training behaviour."""
  from jepa import worlds

  def one(key):
    k_start, k_act = jax.random.split(key)
    start = world.reset(k_start)
    states = worlds.rollout(world, start, world.behave(k_act, start, length - 1))
    return jax.lax.map(lambda s: (latents.of_context(observe(s)), world.position(s)), states)

  return jax.lax.map(one, jax.random.split(key, count))


def probe(z: np.ndarray, y: np.ndarray, *, penalty: float = 1e-3) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
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


def paths(world: World, model: WorldModel, params: Params, extra: Extra, starts: Any, key: jax.Array, *,
          horizon: int) -> tuple[jax.Array, jax.Array]:
  """(positions [N H+1 P] where training actions lead, latents [N H+1 D] imagined of them) from N starts."""
  from jepa import worlds
  flat = lambda z: ravel_pytree(z)[0]

  def one(turn):
    start, key = turn
    actions = world.behave(key, start, horizon)
    states = worlds.rollout(world, start, actions)
    z = model.encode(params, extra, world.render(start)[None])

    def step(z, a):
      z = model.predict(params, extra, z, a[None])
      return z, flat(z)
    return jax.vmap(world.position)(states), jnp.concatenate([flat(z)[None], jax.lax.scan(step, z, actions)[1]])

  keys = jax.random.split(key, len(jax.tree.leaves(starts)[0]))
  return jax.lax.map(one, (starts, keys))
