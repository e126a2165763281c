"""Acting in a native world: a policy acts until it succeeds or its budget is spent.

Episodes take turns. A turn is one compiled call in which a chunk of them looks once and executes what the
policy answers, those with the fewest looks first; one that has succeeded gives its place to another. What
happens in an episode does not depend on the others.

Shape letters: B episodes, P looks, R actions from one look to the next.
"""
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
import os
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jepa.planning import control
from jepa.planning.agents import Agent
from jepa.planning.protocol import Protocol, problem_keys, scores
from jepa.worlds import World


def run(world: World, agent: Agent, protocol: Protocol, *, chunk: int = 25,
        title: str = "") -> tuple[dict[str, Any], control.Episode]:
  """(numbers, what happened): success rate with its interval, steps to success, seconds.

  Args:
    chunk: episodes that look and act at once; on each core of a CPU, since one program of so small arrays is
      no faster on many.
  """
  return learning(world, lambda nothing: agent, (), protocol, chunk=chunk, title=title)[:2]


def learning(world: World, agent: Callable[[Any], Agent], memory: Any, protocol: Protocol, *,
             remember: Callable[[Any, control.Episode], Any] | None = None, chunk: int = 25,
             title: str = "") -> tuple[dict[str, Any], control.Episode, Any]:
  """As `run`, and the memory at the end, of an agent that is made of a memory. With `remember`, a `chunk` of
  episodes ends before the next begins, with the memory that it makes of the old one and of them."""
  count, chunk = protocol.episodes, min(chunk, protocol.episodes)
  allowed = np.asarray(control.schedule(agent(memory).policy, protocol.budget))
  key, looks = jax.random.fold_in(jax.random.key(protocol.seed), 1), np.zeros(count, np.int32)
  start, turn = programs(world, agent)
  running, goals, targets = jax.jit(start)(memory, problem_keys(protocol),
                                           keys_of(key, np.arange(count), len(allowed) + looks))
  turn = jax.jit(turn, donate_argnums=0).lower(
      running, memory, np.arange(chunk, dtype=np.int32), key, looks[:chunk], allowed[looks[:chunk]], goals,
      targets).compile()
  table = Table(
      turn=lambda running, memory, who, at: turn(running, memory, who, key, at, allowed[at], goals, targets),
      looks=looks, most=len(allowed), record=_record(jax.device_get(running.state), world, allowed.shape),
      chunk=chunk, stop=threading.Event(),
      bar=tqdm(total=count, desc=title or "episodes", unit="episode", leave=False, delay=2.0,
               disable=not sys.stderr.isatty()))
  clock = time.perf_counter()
  if remember:
    running, memory = _one_after_the_other(table, running, memory, jax.jit(remember))
  else:
    running = _side_by_side(table, running, memory)
  seconds = time.perf_counter() - clock
  table.bar.close()
  episode = _whole(table.record, protocol.budget, jax.device_get(running))
  return scores(episode, seconds), episode, memory


def programs(world: World, agent: Callable[[Any], Agent]) -> tuple[Callable, Callable]:
  """(start, turn), pure functions to be jitted:

  start: (memory, keys of problems [B], keys [B]) -> (running, goals, targets), each with a leading B.
  turn: (running, memory, which int32 [N], key, looks int32 [N], allowed bool [N R], goals, targets) ->
    (running, turn): N episodes, `which`, look for the `looks`-th time; an index of B is nobody.
  """

  def start(memory, keys_problem, keys):
    made = agent(memory)
    begin = control.begin(made.policy, done=world.success)
    first, target = jax.vmap(world.problem)(keys_problem)
    return jax.vmap(begin)(keys, first, target), jax.vmap(made.aim)(target), target

  def turn(running, memory, which, key, looks, allowed, goals, targets):
    made = agent(memory)
    look = control.look(made.policy, step=world.step, observe=made.observe, done=world.success)
    pick = lambda tree: jax.tree.map(lambda x: x.at[which].get(mode="clip"), tree)
    after, turn = jax.vmap(look)(keys_of(key, which, looks), pick(running), pick(goals), pick(targets),
                                 allowed)
    return jax.tree.map(lambda old, new: old.at[which].set(new, mode="drop"), running, after), turn

  return start, turn


def keys_of(key: jax.Array, episodes: jax.Array, looks: jax.Array) -> jax.Array:
  """The key of each episode's look, both int32 [B]: whichever others share its turn."""
  return jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(episodes, looks)


def processors() -> int:
  """How many programs are worth running at once: this process's cores, or 1 for an accelerator."""
  if jax.default_backend() != "cpu":
    return 1
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- who is on turn ----

class Table(NamedTuple):
  """What the episodes share; `looks` and `record` are written in place, by whoever plays."""

  turn: Callable            # (running, memory, which int32 [chunk], looks int32 [chunk]) -> (running, turn)
  looks: np.ndarray         # int32 [B], taken
  most: int                 # P
  record: control.Episode   # [B ...] as far as it happened
  chunk: int
  stop: threading.Event     # ends all with their turn
  bar: tqdm


def _play(table: Table, running: control.Running, memory: Any, group: np.ndarray) -> control.Running:
  """`running`, in which the episodes of `group` have ended."""
  left, looks = len(group), table.looks
  while not table.stop.is_set():
    pending = group[~np.asarray(running.finished)[group] & (looks[group] < table.most)]
    table.bar.update(left - len(pending))
    left = len(pending)
    if not left:
      break
    pending = pending[np.argsort(looks[pending], kind="stable")][:table.chunk]
    filled = dict(pad_width=(0, table.chunk - len(pending)))
    which = np.pad(pending, **filled, constant_values=len(looks)).astype(np.int32)       # with nobody
    running, found = table.turn(running, memory, which, np.pad(looks[pending], **filled))
    _write(table.record, pending, looks[pending], jax.device_get(found))
    looks[pending] += 1
  return running


def _one_after_the_other(table: Table, running: control.Running, memory: Any,
                         learn: Callable) -> tuple[control.Running, Any]:
  """Chunk by chunk, each with the memory of those before."""
  count = len(table.looks)
  for group in np.split(np.arange(count), range(table.chunk, count, table.chunk)):
    running = _play(table, running, memory, group)
    memory = learn(memory, jax.tree.map(lambda x: x[group], table.record))
  return running, memory


def _side_by_side(table: Table, running: control.Running, memory: Any) -> control.Running:
  """A share of the episodes on each core; arrays of the host."""
  count = len(table.looks)
  cores = min(processors(), -(-count // table.chunk))
  groups = [np.arange(i, count, cores) for i in range(cores)]
  copies = [jax.tree.map(lambda x: x.copy(), running) for _ in groups]      # each is given away, turn by turn
  with ThreadPoolExecutor(cores) as pool:
    futures = [pool.submit(_play, table, running, memory, group) for running, group in zip(copies, groups)]
    try:
      wait(futures, return_when=FIRST_EXCEPTION)
    finally:
      table.stop.set()      # Ctrl-C or a failure: the others end with their turn
    parts = jax.device_get([f.result() for f in futures])
  return jax.tree.map(lambda *xs: np.stack([xs[i % cores][i] for i in range(count)]), *parts)


# ---- what happened ----

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


def _whole(record: control.Episode, steps: int, running: control.Running) -> control.Episode:
  """The episodes at their end, of `steps` steps: the last look may have had more actions."""
  states = jax.tree.map(lambda x: x[:, :steps + 1], record.states)
  return record._replace(states=states, actions=record.actions[:, :steps], live=record.live[:, :steps],
                         done=running.finished, memory=running.memory)
