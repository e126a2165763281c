"""From a config to the parts of a run, and nothing else. The only place where config strings become code;
training and evaluation share it."""
from collections.abc import Callable
import functools
import inspect
from types import ModuleType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from jepa import config as configs, optim, sharding, state as states, wrappers
from jepa.data import source as sources
from jepa.data.source import Source
from jepa.types import Batch, Method, TrainState, WorldModel


class Experiment(NamedTuple):
  """Everything a run is made of; nothing here holds an array of the state."""

  config: dict[str, Any]          # resolved: durations in steps
  total: int                      # steps
  mesh: Mesh
  train: Source
  test: Source
  method: Method
  world: WorldModel | None        # of methods that predict the next state; takes actions as the world does
  tx: optax.GradientTransformation
  schedules: dict[str, Callable]  # by name, for the log
  batch: Batch                    # abstract: ShapeDtypeStructs of the global batch
  init: Callable[[jax.Array], TrainState]                  # key -> state at step 0, sharded
  step: Callable[[TrainState, Batch], tuple]               # pure train step
  abstract: TrainState
  shardings: TrainState


def build(c: ConfigDict) -> Experiment:
  """Builds the parts; allocates nothing of the size of the model.

  Raises:
    ValueError: names the field of the config that does not fit, and what would.
  """
  # 1. Data, whose length gives epochs their meaning.
  raw = configs.plain(c)
  train, test = (open_source(raw["data"], split) for split in ("train", "test"))

  # 2. Durations.
  sizes = dict(batch=raw["batch"], examples=train.length)
  total = configs.duration(raw["total"], **sizes)
  if total < 1:
    raise ValueError(f"config.total = {raw['total']!r} is {total} steps of batch {raw['batch']} over "
                     f"{train.length} examples; at least one is needed")
  raw = configs.resolve(raw, **sizes, total=total) | {"total": total}

  # 3. Where things live.
  mesh = configs.call(sharding.make_mesh, "config.mesh", **raw["mesh"])
  _check_batch(raw, mesh, train)

  # 4. Method and optimizer.
  paper = configs.module(raw["method"], "jepa.methods")
  method = configs.call(paper.make, "config.args", **raw["args"], steps=total)
  method = _wrapped(method, train, raw)
  tx, schedules = configs.call(optim.make, "config.optim", **raw["optim"], steps=total)

  # 5. The state, abstract first, so that nothing is ever made unsharded.
  batch = {k: jax.ShapeDtypeStruct(*s) for k, s in sources.spec(train, raw["batch"]).items()}
  # Two images are enough for shapes; a batch of zeros in full would cost memory and a long trace of nothing.
  zeros = {k: jnp.zeros((min(2, s.shape[0]), *s.shape[1:]), s.dtype) for k, s in batch.items()}
  init = functools.partial(states.init, method=method, tx=tx)
  abstract = jax.eval_shape(lambda key: init(key, zeros), jax.random.key(raw["seed"]))
  shardings = sharding.of_state(abstract, mesh)
  return Experiment(
      config=raw, total=total, mesh=mesh, train=train, test=test, method=method,
      world=_world(paper, raw["args"]), tx=tx, schedules=schedules, batch=batch,
      init=jax.jit(lambda key: init(key, zeros), out_shardings=shardings),
      step=functools.partial(states.train_step, method=method, tx=tx, accumulate=raw["accumulate"]),
      abstract=abstract, shardings=shardings)


def open_source(data: dict, which: str, **more: Any) -> Source:
  """The split `which` ("train" or "test") that config.data names; `more` replaces some of its arguments."""
  return sources.make(data["source"], data[which], **(data["args"] | more))


def _wrapped(method: Method, train: Source, raw: dict) -> Method:
  """The method over what the source gives, and with the memory that the config asks for."""
  if train.normaliser is not None:
    method = wrappers.standardised(method, train.normaliser)
  if train.generate is not None:
    method = wrappers.on_the_fly(method, train.generate)
  if raw.get("memory"):             # configs of older workdirs have no such field
    each = raw["batch"] // raw["accumulate"]
    if raw["memory"] < each:
      raise ValueError(f"config.memory = {raw['memory']} holds less than the {each} examples of a step; "
                       "enlarge it, or 0 for none")
    method = wrappers.remembering(method, raw["memory"])
  return method


def _world(paper: ModuleType, args: dict) -> WorldModel | None:
  """The world model of a method's file, made with those of the method's arguments that it takes."""
  if not hasattr(paper, "world_model"):
    return None
  wanted = inspect.signature(paper.world_model).parameters
  return wrappers.of_raw_actions(paper.world_model(**{k: v for k, v in args.items() if k in wanted}))


def _check_batch(raw: dict, mesh: Mesh, train: Source) -> None:
  batch, pieces = raw["batch"], mesh.shape["data"] * mesh.shape["fsdp"] * raw["accumulate"]
  if batch % pieces or batch % jax.process_count():
    raise ValueError(
        f"config.batch = {batch} does not split into data*fsdp*accumulate = {pieces} equal parts over "
        f"{jax.process_count()} processes; choose a multiple of {pieces}")
  if batch > train.length:
    raise ValueError(f"config.batch = {batch} is larger than the training set ({train.length} "
                     f"{sources.noun(train)})")


def initial_state(exp: Experiment) -> TrainState:
  """The state at step 0, sharded from birth: a function of config.seed alone."""
  return exp.init(jax.random.key(exp.config["seed"]))
