"""Where the weights of a run come from: its own workdir, another run's checkpoint, another run's encoder, or
a draw."""
import functools
import inspect
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict
import numpy as np

from jepa import checkpoint, config as configs, experiment, optim
from jepa.experiment import Experiment
from jepa.types import PyTree, TrainState


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
    found = restore(wanted["checkpoint"], exp.abstract, exp.shardings)
    return found.state, found.data, f"continued {wanted['checkpoint']} at step {int(found.state.step)}"
  state = experiment.initial_state(exp)
  if wanted["encoder"]:
    return (_with_encoder(exp, state, wanted["encoder"]), {},
            f"encoder of {wanted['encoder']}, the rest from scratch")
  return state, {}, "from scratch"


def restore(path: str | Path, abstract: PyTree, shardings: PyTree,
            step: int | None = None) -> checkpoint.Restored:
  """A whole checkpoint of a workdir, of DIR/checkpoints or of DIR/checkpoints/STEP; read only.

  Raises:
    FileNotFoundError: there is none.
  """
  folder, named = locate(path)
  if not checkpoint.steps(folder):
    raise FileNotFoundError(
        f"no checkpoint in {folder}: give a workdir that was trained, or DIR/checkpoints/STEP")
  with checkpoint.open(folder, keep=None) as checkpointer:
    return checkpoint.restore(checkpointer, abstract, shardings, step if step is not None else named)


def locate(path: str | Path) -> tuple[Path, int | None]:
  """(checkpoint folder, step or None for the newest) of a workdir, DIR/checkpoints or
  DIR/checkpoints/STEP."""
  path = Path(path)
  if path.name.isdigit():
    return path.parent, int(path.name)
  return (path if path.name == "checkpoints" else path / "checkpoints"), None


def saved_config(workdir: str | Path) -> ConfigDict:
  """The config a workdir was trained with.

  Raises:
    FileNotFoundError: there is no config.json in it.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist: give the workdir of a run of jepa.main")
  return ConfigDict(json.loads(path.read_text()))


# ---- another run's encoder ----

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
_FROZEN_FROM = ("extra/target/encoder", "extra/target", "params/encoder/vit", "params/encoder",
                "extra/encoder")


def _with_frozen_encoder(exp: Experiment, state: TrainState, path: str) -> TrainState:
  """`state` with another run's encoder, or its target where it has one, as extra["encoder"].

  Raises:
    Mismatch: that run has no such network, or it saw pixels standardised otherwise.
  """
  folder, step = locate(path)
  saved, wrote = checkpoint.describe(folder, step)
  leaves = jax.tree_util.tree_leaves_with_path(exp.abstract.extra["encoder"])
  wanted = {optim.path_of(p): x.shape for p, x in leaves}
  place = next((p for p in _FROZEN_FROM if any(f"{p}/{leaf}" in saved for leaf in wanted)), "params/encoder")
  there = {p.removeprefix(f"{place}/"): shape for p, shape in saved.items() if p.startswith(f"{place}/")}
  if differences := checkpoint.compare(there, wanted) + _unlike(wrote, exp.config):
    raise checkpoint.Mismatch(
        f"config.init.encoder = {path!r}: {place} is not the encoder that is frozen here:\n  "
        + "\n  ".join(differences)
        + "\nGive config.args.encoder, mean and std as that run has them, or another run")
  names = place.split("/")
  nest = lambda tree: functools.reduce(lambda inner, name: {name: inner}, reversed(names), tree)
  like = (nest(x.extra["encoder"]) for x in (exp.abstract, exp.shardings))
  loaded = checkpoint.restore_part(folder, step, *like)
  encoder = functools.reduce(lambda outer, name: outer[name], names, loaded)
  return state._replace(extra=state.extra | {"encoder": encoder})


def _unlike(wrote: dict, ours: dict) -> list[str]:
  """What the shapes of two ViTs do not tell: heads, positions, and how pixels were standardised."""
  def read(c):
    args = c["args"]
    own = inspect.signature(configs.module(c["method"], "jepa.methods").make).parameters
    pixels = {k: args.get(k, own[k].default) for k in ("mean", "std") if k in own}
    encoder = args.get("encoder", {})
    sizes = {k: encoder[k] for k in ("variant", "width", "depth", "heads") if k in encoder}
    if not sizes:
      return pixels
    heads = configs.module("vit", "jepa.models", "encoder").shape_of(**sizes)[2]
    return pixels | {"heads": heads, "position": encoder.get("position", "sincos")}

  def same(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return (1 in (a.size, b.size) or a.size == b.size) and bool(np.all(a == b))

  theirs, wanted = read(wrote), read(ours)
  return [f"{k}: {theirs[k]} in the checkpoint, {wanted[k]} wanted" for k in theirs
          if k in wanted and not same(theirs[k], wanted[k])]
