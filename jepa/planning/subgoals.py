"""Two-level planning: a subgoal first, then actions towards it.

A proposer says where to go next, as a latent; any planner then plans towards that instead of the goal. Two
proposers: a search over sequences of latents by any planner, whose "actions" they are (as LEAP, arXiv
1911.08453, and the second level of PLDM and H-JEPA, arXiv 2502.14819), and the shortest path through a memory
of latents that were reached before (search on the replay buffer, arXiv 1906.05253).

Shape letters: D width of a latent, S subgoals in a sequence, C capacity of the memory.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa.planning import Energy, Planner, PyTree
from jepa.wrappers import Memory

Cost = Callable[[jax.Array, jax.Array], jax.Array]      # (latent [D], latent [D]) -> f32 []: effort from the
                                                        # first to the second, not negative


# ---- remembering what was reached ----

def spread(memory: Memory, latents: jax.Array, cost: Cost, apart: float) -> Memory:
  """With those of latents [N D], in order, that are more than `apart` from all that is known, in units of the
  cost: sparse, so that a small memory covers much (as sparse graphical memory, arXiv 2003.06417)."""

  def one(memory, latent):
    known = jnp.where(filled(memory), jax.vmap(lambda z: cost(z, latent))(memory.latents), jnp.inf)
    far, capacity = known.min() > apart, len(known)
    slot = jnp.where(far, memory.count % capacity, capacity)      # one past the end is dropped
    return Memory(memory.latents.at[slot].set(latent, mode="drop"), memory.count + far), None

  return jax.lax.scan(one, memory, latents)[0]


def filled(memory: Memory) -> jax.Array:
  """bool [C]: the slots that hold a latent."""
  return jnp.arange(len(memory.latents)) < memory.count


def nearest(memory: Memory, latent: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """(index int32 [k], Euclidean distance f32 [k]) of the latents nearest to latent [D], nearest first;
  distance inf where fewer than k are there."""
  distance = jnp.linalg.norm(memory.latents - latent, axis=-1)
  value, index = jax.lax.top_k(-jnp.where(filled(memory), distance, jnp.inf), k)
  return index, -value


def snap(memory: Memory, latent: jax.Array) -> jax.Array:
  """The latent [D] in the memory that is nearest."""
  return memory.latents[nearest(memory, latent, 1)[0][0]]


def graph(memory: Memory, cost: Cost, *, neighbours: int, longest: float = jnp.inf) -> jax.Array:
  """f32 [C C]: the cost of going from one latent straight to another, inf where that is not to be trusted:
  for a pair of which neither is among the other's `neighbours` nearest, or with a cost above `longest`.

  Raises:
    ValueError: fewer than 1 neighbour.
  """
  if neighbours < 1:
    raise ValueError(f"neighbours is {neighbours}; a graph without edges has no paths: give at least 1")
  c, there = len(memory.latents), filled(memory)
  costs = jax.vmap(lambda a: jax.vmap(lambda b: cost(a, b))(memory.latents))(memory.latents)
  costs = jnp.where(there[:, None] & there & ~jnp.eye(c, dtype=bool), costs, jnp.inf)
  kth = lambda rows: -jax.lax.top_k(-rows, min(neighbours, c))[0][:, -1]
  near = (costs <= kth(costs)[:, None]) | (costs <= kth(costs.T))
  return jnp.where(near & (costs <= longest), costs, jnp.inf)


def shortest(costs: jax.Array, last: jax.Array) -> jax.Array:
  """f32 [C]: the cost of the cheapest path from each node of the graph `costs` [C C] to a goal that is
  `last` [C] away from each; inf where there is none. Bellman-Ford:

    v_i <- min(last_i, min_j costs_ij + v_j)        until nothing changes, at most C times
  """

  def relax(state):
    value, _, i = state
    new = jnp.minimum(last, (costs + value).min(1))
    return new, (new < value).any(), i + 1

  going = lambda state: state[1] & (state[2] < len(last))
  return jax.lax.while_loop(going, relax, (last, jnp.array(True), 0))[0]


# ---- two levels ----

class Proposer(NamedTuple):
  """Where to go next."""

  init: Callable[[], PyTree]                          # its state, where nothing is known
  # (key, latent [D], goal [D], state) -> (subgoal [D], state)
  propose: Callable[[jax.Array, jax.Array, jax.Array, PyTree], tuple[jax.Array, PyTree]]


def two_level(proposer: Proposer, low: Planner) -> Planner:
  """`low` towards what `proposer` proposes, asked anew at every call. Context and goal are latents [D]; the
  plan's energy is that of reaching the subgoal, its memory (the proposer's state, the memory of `low`)."""

  def outer(plan, state):
    return plan._replace(memory=(state, plan.memory))

  def inner(plan):
    return plan._replace(memory=plan.memory[1])

  def plan(key, context, goal, plan):
    k_high, k_low = jax.random.split(key)
    subgoal, state = proposer.propose(k_high, context, goal, plan.memory[0])
    return outer(low.plan(k_low, context, subgoal, inner(plan)), state)

  def shift(plan, steps):
    return outer(low.shift(inner(plan), steps), plan.memory[0])

  return Planner(low.horizon, lambda: outer(low.init(), proposer.init()), plan, shift)


# ---- proposers ----

def chain(cost: Cost, memory: Memory | None = None) -> Energy:
  """E(context [D], subgoals [S D], goal [D]) = the sum of `cost` along context, subgoals, goal. A cost that
  grows faster than the distance, such as its square, spaces the subgoals evenly.

  Args:
    memory: each subgoal stands for the nearest latent in it, so that only what was reached is proposed.
  """

  def energy(context, subgoals, goal):
    subgoals = subgoals if memory is None else jax.vmap(lambda z: snap(memory, z))(subgoals)
    path = jnp.concatenate([context[None], subgoals, goal[None]])
    return jax.vmap(cost)(path[:-1], path[1:]).sum()

  return energy


def searched(high: Planner, memory: Memory | None = None) -> Proposer:
  """The first of the subgoals that `high` finds: a planner with such an energy, limits of D dimensions and
  as many subgoals as its horizon. Each search begins at the subgoals found last, with its first std."""

  def propose(key, context, goal, state):
    state = high.plan(key, context, goal, high.shift(state, 0))
    subgoal = state.actions[0]
    return subgoal if memory is None else snap(memory, subgoal), state

  return Proposer(high.init, propose)


def remembered(memory: Memory, cost: Cost, *, neighbours: int, longest: float,
               reached: float = 0.0, ahead: float = 0.0) -> Proposer:
  """The first latent on the cheapest path through the memory; the goal itself where it is within `longest`
  and no detour is cheaper, and where no path is known.

  Args:
    neighbours, longest: of the graph; `longest` also bounds the first and the last leg.
    reached: latents this near, in units of the cost, are behind us and not proposed.
    ahead: the last latent on that path which is no more than this along it is proposed, or the goal where all
      of the path is; the first one where it is farther than that.
  """
  costs = graph(memory, cost, neighbours=neighbours, longest=longest)
  trusted = lambda c: jnp.where(c <= longest, c, jnp.inf)

  def propose(key, context, goal, state):
    first = jax.vmap(lambda z: cost(context, z))(memory.latents)
    last = jax.vmap(lambda z: cost(z, goal))(memory.latents)
    first = jnp.where(filled(memory) & (first > reached), trusted(first), jnp.inf)
    last = jnp.where(filled(memory), trusted(last), jnp.inf)
    left = shortest(costs, last)
    total = first + left
    node, walked = along(costs, left, last, total.argmin(), first[total.argmin()], ahead)
    subgoal = jnp.where(walked + last[node] <= ahead, goal, memory.latents[node])
    return jnp.where(trusted(cost(context, goal)) <= total.min(), goal, subgoal), state

  return Proposer(lambda: (), propose)


def along(costs: jax.Array, left: jax.Array, last: jax.Array, node: jax.Array, walked: jax.Array,
          ahead: float) -> tuple[jax.Array, jax.Array]:
  """(node, walked): the farthest node of the cheapest path from `node` on that is within `ahead`, of a graph
  `costs` [C C] and what is `left` [C] from each node, of which `last` [C] straight to the goal."""

  def following(state):
    node, walked = state
    on = costs[node] + left
    return on.argmin(), walked + costs[node, on.argmin()], on.min()

  def going(state):
    _, far, on = following(state)
    return (state[1] < far) & (far <= ahead) & (on < last[state[0]])

  return jax.lax.while_loop(going, lambda state: following(state)[:2], (node, walked))
