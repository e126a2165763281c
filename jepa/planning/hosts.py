"""Acting in worlds that step on the host (jepa/worlds/host.py): protocol, planners and numbers are those of
native worlds, only the loop is another. One compiled call plans for all episodes of a chunk; the host takes
the actions and looks again.

A policy whose actions are k times as wide as the environment's goes in blocks of k of its steps: the k
actions one after the other. Success is looked for after every step of the environment.

Shape letters: N episodes, T steps of the environment, R actions from one look to the next, A action.
"""
from collections.abc import Callable
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jepa.data.source import Source
from jepa.planning import agents, control
from jepa.planning.agents import Agent
from jepa.planning.protocol import RANDOM, STRAIGHT, TRAINED, UNTRAINED, Protocol, scores
from jepa.types import Extra, Params, WorldModel
from jepa.worlds import pusht_gym
from jepa.worlds.host import Batch, HostWorld, Problem, Seen
from jepa.worlds.world import Actions

NEAR, STAY, REPLAY = "random near the agent", "stay", "recorded actions"
ROWS = (RANDOM, NEAR, STAY, STRAIGHT, REPLAY, UNTRAINED, TRAINED)
REACH = 50.0                        # pixels to each side of the agent, of NEAR
FAR = 4.0                           # deviations that a plan may go from the mean of the training actions
FILMS = 6                           # episodes of which all pictures are kept


# ---- who acts ----

def planned(world: HostWorld, model: WorldModel, params: Params, extra: Extra, *, skip: int = 1, horizon: int,
            last: int = 0, root: np.ndarray | None = None, **search) -> Agent:
  """A planner with a world model, whose action is `skip` of the environment's.

  It searches in standard deviations from the mean of the actions that the model was trained on, as published
  (in halves of the limits from their middle, where the model has not stored them): planners begin at zero
  with one deviation for every number of an action. With `root`, what is normal for it has the correlations of
  those actions too: people move smoothly, and of a sequence that jumps about the model knows nothing.

  Args:
    model: takes actions as the environment does. search: name, every and settings of agents.planned.
    root: f32 [A A], of the covariance of the training actions; see `root_of`.

  Raises:
    ValueError: the model's actions are not so many of the environment's.
  """
  low, high = (np.tile(x, skip) for x in world.actions[:2])
  seen = extra.get("normaliser", {}).get("action", {"mean": (high + low) / 2, "std": (high - low) / 2})
  middle, unit = np.asarray(seen["mean"]), np.asarray(seen["std"])
  if middle.shape != low.shape:
    raise ValueError(f"the model was trained on actions of {len(middle)} numbers; {skip} of {world.name} "
                     f"have {len(low)}")
  if root is None:
    box, real = Actions((low - middle) / unit, (high - middle) / unit), lambda a: middle + unit * a
  else:
    box = Actions(np.full(low.shape, -FAR, np.float32), np.full(low.shape, FAR, np.float32))
    real = lambda a: jnp.clip(middle + a @ root.T, low, high)
  told = model._replace(predict=lambda p, e, z, a: model.predict(p, e, z, real(a)))
  energy, look, _ = agents.of_model(told, params, extra, world, horizon=horizon, last=last)
  agent = agents.planned(world._replace(actions=box), energy, look, lambda problem: look(problem.goal),
                         horizon=horizon, **search)

  def act(key, context, goal, plan):
    actions, value, plan = agent.policy.act(key, context, goal, plan)
    return real(actions), value, plan

  return agent._replace(policy=agent.policy._replace(act=act))


def root_of(train: Source, windows: int = 4096) -> np.ndarray:
  """f32 [A A], L with L L^T the covariance of the actions of a recording, from evenly spaced windows."""
  which = np.linspace(0, train.length - 1, min(windows, train.length)).astype(int)
  actions = train.arrays["action"][which].astype(np.float64)
  actions = actions.reshape(-1, actions.shape[-1])
  covariance = np.atleast_2d(np.cov(actions.T))
  ridge = 1e-6 * np.trace(covariance) / len(covariance)       # columns may be constant, or copies of others
  return np.linalg.cholesky(covariance + ridge * np.eye(len(covariance))).astype(np.float32)


def floors(world: HostWorld) -> dict[str, Agent]:
  """By row. Recorded actions are the ceiling where there is no simulator to plan with: those that led from
  the start to the goal, the last of them held. Only PushT has an agent whose place is known."""
  blind = lambda seen: jnp.zeros(())
  policy = lambda act: control.Policy(1, lambda key: (), lambda key, state, problem, memory: (
      act(key, state, problem)[None], jnp.array(jnp.inf), memory))
  sees = lambda act: Agent(policy(act), lambda seen: seen.state, lambda problem: problem)
  replay = control.Policy(1, lambda key: jnp.int32(0), lambda key, _, actions, t: (
      actions[jnp.minimum(t, len(actions) - 1)][None], jnp.array(jnp.inf), t + 1))
  found = {RANDOM: agents.random(world), REPLAY: Agent(replay, blind, lambda problem: problem.actions)}
  if world.name == pusht_gym.NAME:
    near = lambda key, state, _: state[:2] + jax.random.uniform(key, (2,), minval=-REACH, maxval=REACH)
    found |= {NEAR: sees(near), STAY: sees(lambda key, state, problem: problem.start[:2]),
              STRAIGHT: sees(lambda key, state, problem: problem.goal.state[:2])}
  return found


# ---- episodes ----

class Programs(NamedTuple):
  """The policy, compiled for a chunk of episodes."""

  aim: Callable             # problems -> goals
  init: Callable            # keys -> memory
  act: Callable             # (keys, look int32 [], seen, goals, memory) -> (actions, energy, memory)
  looks: bool               # whether it makes use of the picture
  each: int                 # steps of the environment from one look to the next


def run(world: HostWorld, agent: Agent, protocol: Protocol, problems: Problem, *, chunk: int = 25,
        title: str = "", films: int = FILMS) -> tuple[dict[str, Any], control.Episode, list[np.ndarray]]:
  """(numbers, what happened, pictures uint8 [steps + 1 H W C] of the first `films` episodes), as acting.run
  has them; an episode's states are f32 [T + 1 P], its actions those of the environment.

  Args:
    chunk: episodes at once, an environment each.

  Raises:
    ValueError: the policy's actions are no multiple of the environment's in width.
  """
  count = protocol.episodes
  chunk = min(chunk, count)
  order = np.arange(-(-count // chunk) * chunk) % count             # the last chunk is padded and cut
  k_policy = jax.random.fold_in(jax.random.key(protocol.seed), 1)
  keys = jax.vmap(lambda i: jax.random.fold_in(k_policy, i))(order)
  part = lambda i: jax.tree.map(lambda x: x[order[i:i + chunk]], problems)
  programs = _compiled(world, agent, part(0), keys[:chunk])         # before the clock runs

  batch, found, kept = Batch(world.driver, chunk), [], []
  bar = tqdm(range(0, len(order), chunk), desc=title or "episodes", unit=f"x{chunk}", leave=False, delay=2.0,
             disable=not sys.stderr.isatty())
  clock = time.perf_counter()
  try:
    for i in bar:
      episode, frames = _chunk(world, batch, part(i), keys[i:i + chunk], programs, budget=protocol.budget,
                               films=min(chunk, max(0, min(films, count) - i)))
      found.append(episode)
      kept += frames
  finally:
    batch.close()
  seconds = time.perf_counter() - clock
  episode = jax.tree.map(lambda *x: np.concatenate(x)[:count], *found)
  return scores(episode, seconds), episode, kept


def _compiled(world: HostWorld, agent: Agent, problems: Problem, keys: jax.Array) -> Programs:
  """For as many episodes as `problems` and `keys` are of."""
  aim = jax.jit(jax.vmap(agent.aim))
  init = jax.jit(jax.vmap(lambda k: agent.policy.init(jax.random.fold_in(k, 0))))

  @jax.jit
  def act(keys, look, seen, goals, memory):
    one = lambda k, s, g, m: agent.policy.act(jax.random.fold_in(k, look + 1), agent.observe(s), g, m)
    return jax.vmap(one)(keys, seen, goals, memory)

  asked, width = (keys, np.int32(0), problems.goal, aim(problems), init(keys)), len(world.actions.low)
  compiled = act.lower(*asked).compile()
  actions, _, _ = jax.eval_shape(act, *asked)
  if actions.shape[-1] % width:
    raise ValueError(f"the policy's actions have {actions.shape[-1]} numbers, those of {world.name} {width}; "
                     "a multiple of it is needed")
  return Programs(aim, init, compiled, _looks(agent, jax.tree.map(lambda x: x[0], problems.goal)),
                  actions.shape[1] * actions.shape[2] // width)


def _looks(agent: Agent, seen: Seen) -> bool:
  """Whether the agent makes use of the picture; drawing it may take longer than a step."""
  program = jax.make_jaxpr(agent.observe)(seen).jaxpr
  image = program.invars[0]
  return any(image is v for v in program.outvars) or any(image is v for e in program.eqns for v in e.invars)


def _chunk(world: HostWorld, batch: Batch, problems: Problem, keys: jax.Array, programs: Programs, *,
           budget: int, films: int) -> tuple[control.Episode, list[np.ndarray]]:
  """The episodes of one chunk and the pictures of the first `films` of them."""
  unseen, each = np.zeros((len(keys), *world.image), np.uint8), programs.each
  see = batch.look if programs.looks else lambda: Seen(unseen, batch.states())
  goals, memory = programs.aim(problems), programs.init(keys)
  batch.reset(problems.seed, problems.start)
  never = np.zeros(len(keys), bool)
  done = world.success(batch.states(), problems.goal.state, never)
  states, actions, lives, energies = [batch.states()], [], [], []
  frames = [[batch.picture(i)] for i in range(films)]
  for look in range(-(-budget // each)):
    plan, energy, memory = programs.act(keys, np.int32(look), see(), goals, memory)
    energies.append(np.asarray(energy))
    plan = np.asarray(plan).reshape(len(keys), each, -1)
    for a in plan.swapaxes(0, 1)[:budget - look * each]:
      live = ~done & ~batch.over
      told = batch.step(a, live)
      done |= live & world.success(batch.states(), problems.goal.state, told)
      states.append(batch.states())
      actions.append(a)
      lives.append(live)
      for i in np.flatnonzero(live[:films]):
        frames[i].append(batch.picture(i))
  along = lambda x: np.stack(x, 1)
  episode = control.Episode(*map(along, (states, actions, lives, energies)), done, jax.device_get(memory))
  return episode, [np.stack(f) for f in frames]
