"""Who acts in a native world: planners over a world model or over the true simulator, and their floors.

Shape letters: H horizon, A action, D numbers of a latent.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from jepa import planning
from jepa.planning import control, subgoals
from jepa.types import Extra, Params, TrainState, WorldModel
from jepa.worlds import World

# context -> (dynamics, distance, first state), for planners that are planning.stepwise
Steps = Callable[[Any], tuple[Callable, Callable, Any]]


class Agent(NamedTuple):
  """A policy, what it sees of a state and of the goal's state."""

  policy: control.Policy
  observe: Callable[[Any], Any]
  aim: Callable[[Any], Any]


class Latents(NamedTuple):
  """How what an agent sees becomes vectors that a memory can hold."""

  of_context: Callable[[Any], jax.Array]                        # context -> f32 [D]
  of_goal: Callable[[Any], jax.Array]                           # goal -> f32 [D]
  back: Callable[[jax.Array], Any]                              # f32 [D] -> goal
  distance: Callable[[jax.Array, jax.Array], jax.Array]         # f32 [D], f32 [D] -> f32 [], as squares grow


class Parts(NamedTuple):
  """What a planner plans with."""

  energy: planning.Energy
  observe: Callable[[Any], Any]     # state -> context
  aim: Callable[[Any], Any]         # the goal's state -> goal
  steps: Steps
  latents: Latents


# ---- floors ----

def random(world: World) -> Agent:
  """The floor that sees nothing."""
  nothing = lambda state: jnp.zeros(())
  return Agent(control.random(planning.Limits(*world.actions)), nothing, nothing)


def straight(world: World) -> Agent:
  """The floor that knows both positions and no wall: the largest step towards the goal."""
  act = lambda key, state, goal, memory: (world.controller(state, goal)[None], jnp.array(jnp.inf), memory)
  return Agent(control.Policy(1, lambda key: (), act), lambda state: state, lambda state: state)


# ---- planners ----

def planned(world: World, energy: planning.Energy, observe: Callable, aim: Callable, *, name: str,
            horizon: int, every: int = 1, dynamics: Steps | None = None,
            proposer: subgoals.Proposer | None = None, **settings) -> Agent:
  """A planner over an energy, or one that is stepwise over `dynamics`; towards what `proposer` proposes,
  where there is one. settings: of planning.make.

  Raises:
    ValueError: a stepwise planner without dynamics; what planning.make raises.
  """
  settings |= dict(limits=planning.Limits(*world.actions), horizon=horizon)
  if not planning.stepwise(name):
    planner = planning.make(name, energy=energy, **settings)
  elif dynamics is None:
    raise ValueError(f"{name} plans step by step, which is not possible in {world.name}; choose another "
                     "planner, such as --planner=mppi")
  else:
    planner = by_steps(name, dynamics, **settings)
  if proposer is not None:
    planner = subgoals.two_level(proposer, planner)
  return Agent(control.planned(planner, every=every), observe, aim)


def by_steps(name: str, dynamics: Steps, /, **settings) -> planning.Planner:
  """A stepwise planner in a world that may differ from context to context. settings: of that planner."""
  make = lambda step, distance: planning.make(name, dynamics=step, distance=distance, **settings)

  def plan(key, context, goal, plan):
    step, distance, first = dynamics(context)
    return make(step, distance).plan(key, first, goal, plan)

  return make(lambda z, a: z, lambda z, goal: jnp.zeros(()))._replace(plan=plan)


# ---- what they plan with ----

def parts(world: World, model: WorldModel, state: TrainState | None, *, horizon: int, last: int = 0) -> Parts:
  """Of a world model with the weights of `state`; None: of the true simulator."""
  if state is None:
    return Parts(*of_world(world, horizon=horizon, last=last), steps_of_world(world), latents_of_world(world))
  weights = model, state.params, state.extra
  return Parts(*of_model(*weights, world, horizon=horizon, last=last), steps_of_model(*weights),
               latents_of_model(*weights, world))


def weights(horizon: int, last: int) -> np.ndarray:
  """f32 [H]: which imagined states count: the `last` ones, all for 0.

  Raises:
    ValueError: not 0 ... horizon.
  """
  if not 0 <= last <= horizon:
    raise ValueError(f"--last={last}: of a horizon of {horizon} the last 1 to {horizon} states count, all "
                     "with 0")
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


def placed(world: World, state: Any, position: jax.Array) -> Any:
  """`state` with the agent somewhere else.

  Raises:
    ValueError: a world whose state is more than a position and a layout.
  """
  if "position" not in getattr(state, "_fields", ()):
    raise ValueError(f"{world.name}: its state is more than a position and a layout, so that an agent cannot "
                     "be put at a position; choose two_rooms, wall or maze, or plan with --planner=mppi and "
                     "without it")
  return state._replace(position=position)


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
