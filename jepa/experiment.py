"""From a config to the parts of a run. The only place where config strings become code;
training and evaluation share it."""
from collections.abc import Callable, Mapping
import functools
import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
import jax
from jax.sharding import Mesh
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from jepa import checkpoint, config as configs, methods, optim, sharding, state as states
from jepa.data import source as source_lib, sources
from jepa.models import vit
from jepa.planning import subgoals
from jepa.types import Batch, Extra, Method, PyTree, TrainState, WorldModel


class Experiment(NamedTuple):
  """Everything a run is made of; nothing here holds an array of the state."""

  config: dict[str, Any]          # resolved: durations in steps
  total: int                      # steps
  mesh: Mesh
  train: sources.Source
  test: sources.Source
  method: Method
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
  train, test = (_source(raw["data"], split) for split in ("train", "test"))

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
  make = configs.module(raw["method"], methods.__name__).make
  method = configs.call(make, "config.args", **raw["args"], steps=total)
  tx, schedules = configs.call(optim.make, "config.optim", **raw["optim"], steps=total)

  # 5. The state, abstract first, so that nothing is ever made unsharded.
  spec = lambda shape, dtype: jax.ShapeDtypeStruct((raw["batch"], *shape), dtype)
  batch = {"label": spec((), jnp.int32), "index": spec((), jnp.int32)}
  if train.generate is None:
    batch["image"] = spec(train.shape, jnp.uint8)
    batch |= {k: spec(train.arrays[k].shape[1:], train.arrays[k].dtype) for k in source_lib.steps(train)}
  if train.normaliser is not None:
    method = _standardised(method, train.normaliser)
  if train.generate is not None:
    method = _on_the_fly(method, train.generate)
  if raw.get("memory"):             # configs of older workdirs have no such field
    if raw["memory"] < raw["batch"] // raw["accumulate"]:
      raise ValueError(f"config.memory = {raw['memory']} holds less than the {raw['batch'] // raw['accumulate']} "
                       "examples of a step; enlarge it, or 0 for none")
    method = _remembering(method, raw["memory"])
  if train.text:
    batch["text"] = spec((train.text,), jnp.int32)
  # Two images are enough for shapes; a batch of zeros in full would cost memory and a long trace of nothing.
  zeros = {k: jnp.zeros((min(2, s.shape[0]), *s.shape[1:]), s.dtype) for k, s in batch.items()}
  init = functools.partial(states.init, method=method, tx=tx)
  abstract = jax.eval_shape(lambda key: init(key, zeros), jax.random.key(raw["seed"]))
  shardings = sharding.of_state(abstract, mesh)
  return Experiment(
      config=raw, total=total, mesh=mesh, train=train, test=test, method=method, tx=tx, schedules=schedules,
      batch=batch, init=jax.jit(lambda key: init(key, zeros), out_shardings=shardings),
      step=functools.partial(states.train_step, method=method, tx=tx, accumulate=raw["accumulate"]),
      abstract=abstract, shardings=shardings)


def _source(data: dict, which: str) -> sources.Source:
  return configs.call(functools.partial(sources.load, data["source"], data[which]), "config.data.args",
                      **data["args"])


def _on_the_fly(method: Method, generate: Callable) -> Method:
  """The method over batches of indices, from which `generate` makes the examples on the device."""
  whole = lambda batch: dict(batch) | jax.vmap(generate)(batch["index"])
  return method._replace(
      init=lambda key, batch: method.init(key, whole(batch)),
      loss=lambda params, extra, batch, key: method.loss(params, extra, whole(batch), key),
      embed=lambda params, extra, batch: method.embed(params, extra, whole(batch)))


def _standardised(method: Method, normaliser: Mapping) -> Method:
  """The method over standardised actions and positions. What they are standardised with is saved and restored with
  the model, as extra["normaliser"]; the method knows nothing of it."""
  apart = lambda extra: ({k: v for k, v in extra.items() if k != "normaliser"}, {"normaliser": extra["normaliser"]})
  seen = lambda extra, batch: dict(batch) | {
      k: standardise(extra, k, v) for k, v in batch.items() if k in extra["normaliser"]}

  def init(key, batch):
    own = {"normaliser": jax.tree.map(jnp.asarray, dict(normaliser))}
    params, extra = method.init(key, seen(own, batch))
    return params, extra | own

  def loss(params, extra, batch, key):
    rest, own = apart(extra)
    value, (rest, metrics) = method.loss(params, rest, seen(own, batch), key)
    return value, (rest | own, metrics)

  def post(params, extra, step):
    rest, own = apart(extra)
    return method.post(params, rest, step) | own

  def embed(params, extra, batch):
    rest, own = apart(extra)
    return method.embed(params, rest, seen(own, batch))
  return Method(init, loss, post, embed)


def standardise(extra: Extra, name: str, x: jax.Array) -> jax.Array:
  """An "action" or a "position" [... C] in standard deviations from the mean of the training data, as the model was
  trained on; as it is where the model was trained without."""
  moments = jax.lax.stop_gradient(extra.get("normaliser", {}).get(name))
  return x if moments is None else (x - moments["mean"]) / moments["std"]


def has_world_model(exp: Experiment) -> bool:
  return hasattr(configs.module(exp.config["method"], methods.__name__), "world_model")


def world_model(exp: Experiment) -> WorldModel:
  """The world model of a run's method, made with those of its arguments that it takes. `predict` takes actions as the
  world does and standardises them as training did.

  Raises:
    ValueError: the method has none.
  """
  module = configs.module(exp.config["method"], methods.__name__)
  if not has_world_model(exp):
    raise ValueError(f"{exp.config['method']} predicts no next state from an action: it has no world_model in its "
                     "file; train one that has, such as configs/two_rooms.py")
  wanted = inspect.signature(module.world_model).parameters
  model = module.world_model(**{k: v for k, v in exp.config["args"].items() if k in wanted})
  return model._replace(predict=lambda params, extra, z, action: model.predict(
      params, extra, z, standardise(extra, "action", action)))


def _remembering(method: Method, capacity: int) -> Method:
  """The method with extra["memory"]: what it made of its last `capacity` examples, each by the weights of the step
  that saw it. The oldest is capacity / batch steps behind the weights of the state."""
  without = lambda extra: {k: v for k, v in extra.items() if k != "memory"}

  def init(key, batch):
    params, extra = method.init(key, batch)
    width = jax.eval_shape(method.embed, params, extra, batch).pooled.shape[-1]
    return params, extra | {"memory": subgoals.empty(capacity, width)}

  def loss(params, extra, batch, key):
    value, (rest, metrics) = method.loss(params, without(extra), batch, key)
    z = jax.lax.stop_gradient(method.embed(params, without(extra), batch).pooled)
    return value, (rest | {"memory": subgoals.add(extra["memory"], z.astype(jnp.float32))}, metrics)

  return method._replace(init=init, loss=loss, post=lambda params, extra, step: method.post(
      params, without(extra), step) | {"memory": extra["memory"]})


def _check_batch(raw: dict, mesh: Mesh, train: sources.Source) -> None:
  batch, pieces = raw["batch"], mesh.shape["data"] * mesh.shape["fsdp"] * raw["accumulate"]
  if batch % pieces or batch % jax.process_count():
    raise ValueError(
        f"config.batch = {batch} does not split into data*fsdp*accumulate = {pieces} equal parts over "
        f"{jax.process_count()} processes; choose a multiple of {pieces}")
  if batch > train.length:
    raise ValueError(f"config.batch = {batch} is larger than the training set ({train.length} "
                     f"{'images' if len(train.shape) == 3 else 'windows'})")


def initial_state(exp: Experiment) -> TrainState:
  """The state at step 0, sharded from birth: a function of config.seed alone."""
  return exp.init(jax.random.key(exp.config["seed"]))


def start(exp: Experiment, checkpointer) -> tuple[TrainState, dict, str]:
  """(state, position of the data, what was done), by this precedence:

  1. resume: the newest readable checkpoint in the workdir;
  2. config.init.checkpoint: a workdir or DIR/checkpoints/STEP, whole (state, step, data position);
  3. config.init.encoder: likewise, only what its path calls the encoder (or the target, where there is one),
     as what a method freezes, if it does; step 0;
  4. scratch.
  """
  wanted = exp.config["init"]
  found = checkpoint.restore(checkpointer, exp.abstract, exp.shardings)
  if found:
    return found.state, found.data, f"resumed at step {int(found.state.step)}"
  if wanted["checkpoint"]:
    found = load(wanted["checkpoint"], exp.abstract, exp.shardings)
    return found.state, found.data, f"continued {wanted['checkpoint']} at step {int(found.state.step)}"
  state = initial_state(exp)
  if wanted["encoder"]:
    return (_with_encoder(exp, state, wanted["encoder"]), {},
            f"encoder of {wanted['encoder']}, the rest from scratch")
  return state, {}, "from scratch"


def _with_encoder(exp: Experiment, state: TrainState, path: str) -> TrainState:
  """`state` with params["encoder"], extra["encoder"] and extra["target"] of another run's checkpoint."""
  if "encoder" not in state.params and "encoder" in state.extra:
    return _with_frozen_encoder(exp, state, path)
  parts = {"params": [k for k in state.params if k == "encoder"],
           "extra": [k for k in state.extra if k in ("encoder", "target")]}
  pick = lambda tree: {part: {k: getattr(tree, part)[k] for k in names} for part, names in parts.items()}
  loaded = checkpoint.restore_part(*locate(path), pick(exp.abstract), pick(exp.shardings))
  return state._replace(params=state.params | loaded["params"], extra=state.extra | loaded["extra"])


# Where runs keep an encoder that another may freeze; the first that is there counts.
_FROZEN_FROM = ("extra/target/encoder", "extra/target", "params/encoder/vit", "params/encoder", "extra/encoder")


def _with_frozen_encoder(exp: Experiment, state: TrainState, path: str) -> TrainState:
  """`state` with another run's encoder, or its target where it has one, as extra["encoder"].

  Raises:
    Mismatch: that run has no such network, or it saw pixels standardised otherwise.
  """
  folder, step = locate(path)
  saved, wrote = checkpoint.describe(folder, step)
  wanted = {optim.path_of(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(exp.abstract.extra["encoder"])}
  place = next((p for p in _FROZEN_FROM if any(f"{p}/{leaf}" in saved for leaf in wanted)), "params/encoder")
  there = {p.removeprefix(f"{place}/"): shape for p, shape in saved.items() if p.startswith(f"{place}/")}
  if differences := checkpoint.compare(there, wanted) + _unlike(wrote, exp.config):
    raise checkpoint.Mismatch(f"config.init.encoder = {path!r}: {place} is not the encoder that is frozen here:\n  "
                              + "\n  ".join(differences)
                              + "\nGive config.args.encoder, mean and std as that run has them, or another run")
  names = place.split("/")
  nest = lambda tree: functools.reduce(lambda inner, name: {name: inner}, reversed(names), tree)
  loaded = checkpoint.restore_part(folder, step, *(nest(x.extra["encoder"]) for x in (exp.abstract, exp.shardings)))
  encoder = functools.reduce(lambda outer, name: outer[name], names, loaded)
  return state._replace(extra=state.extra | {"encoder": encoder})


def _unlike(wrote: dict, ours: dict) -> list[str]:
  """What the shapes of two ViTs do not tell: heads, positions, and how pixels were standardised."""
  def read(c):
    args, own = c["args"], inspect.signature(configs.module(c["method"], methods.__name__).make).parameters
    pixels = {k: args.get(k, own[k].default) for k in ("mean", "std") if k in own}
    encoder = args.get("encoder", {})
    sizes = {k: encoder[k] for k in ("variant", "width", "depth", "heads") if k in encoder}
    if not sizes:
      return pixels
    return pixels | {"heads": vit.shape_of(**sizes)[2], "position": encoder.get("position", "sincos")}

  def same(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return (1 in (a.size, b.size) or a.size == b.size) and bool(np.all(a == b))

  theirs, wanted = read(wrote), read(ours)
  return [f"{k}: {theirs[k]} in the checkpoint, {wanted[k]} wanted" for k in theirs
          if k in wanted and not same(theirs[k], wanted[k])]


def locate(path: str) -> tuple[Path, int | None]:
  """(checkpoint folder, step or None for the newest) of a workdir, DIR/checkpoints or
  DIR/checkpoints/STEP."""
  path = Path(path)
  if path.name.isdigit():
    return path.parent, int(path.name)
  return (path if path.name == "checkpoints" else path / "checkpoints"), None


def load(path: str, abstract: PyTree, shardings: PyTree, step: int | None = None) -> checkpoint.Restored:
  """A whole checkpoint, read only.

  Raises:
    FileNotFoundError: there is none.
  """
  folder, named = locate(path)
  if not checkpoint.steps(folder):
    raise FileNotFoundError(
        f"no checkpoint in {folder}: give a workdir that was trained, or DIR/checkpoints/STEP")
  with checkpoint.open(folder, keep=None) as checkpointer:
    return checkpoint.restore(checkpointer, abstract, shardings, step if step is not None else named)


def saved_config(workdir: str | Path) -> ConfigDict:
  """The config a workdir was trained with.

  Raises:
    FileNotFoundError: there is no config.json in it.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist: give the workdir of a run of jepa.main")
  return ConfigDict(json.loads(path.read_text()))


def describe(exp: Experiment) -> str:
  """The parameter table, and the share of the state that is whole on every device (checked)."""
  rows = sharding.rows(exp.abstract, exp.shardings)
  share = sharding.check(rows, exp.mesh, exp.config["replicated_tolerance"])
  trained = sum(x.size for x in jax.tree.leaves(exp.abstract.params))
  logging.info("%s trained parameters, %.1f %% of the state replicated", f"{trained:,}", 100 * share)
  return (f"{sharding.table(rows)}\n\ntrained parameters: {trained:,}\nreplicated on every device: "
          f"{share:.2%} of bytes\n")
