"""Checkpoints: Orbax, thinly. One bundle a step = the whole train state, with the data position
and the config beside it.

Saves are asynchronous and atomic (a bundle appears under its final name only when complete). A restore reads
straight into the shardings it is given, whatever mesh or number of processes wrote it.
"""
from collections.abc import Mapping
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from absl import logging
import jax
from orbax.checkpoint import v1 as ocp

from jepa.optim import path_of
from jepa.types import PyTree


class Mismatch(ValueError):
  """The checkpoint is of another method or architecture."""


class Restored(NamedTuple):
  state: PyTree
  data: dict[str, Any]      # position of the data iterator
  config: dict[str, Any]    # the resolved config that wrote it


def open(directory: str | Path, *, keep: int | None = None, milestones: int = 0) -> ocp.training.Checkpointer:
  """A checkpointer that keeps the newest `keep` bundles (None: all), and every multiple of `milestones` steps
  for good."""
  if keep is None:
    return ocp.training.Checkpointer(Path(directory).absolute())
  policies = [ocp.training.preservation_policies.LatestN(max(1, keep))]
  if milestones:
    policies.append(ocp.training.preservation_policies.EveryNSteps(milestones))
  return ocp.training.Checkpointer(
      Path(directory).absolute(), cleanup_tmp_directories=True,
      preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(policies))


def save(checkpointer, state: PyTree, *, data: Mapping, config: Mapping) -> None:
  """Starts saving the state at its own step; returns when it is copied off the device.
  A step already there is left."""
  step = int(state.step)
  if any(c.step == step for c in checkpointer.checkpoints):
    return
  checkpointer.wait()       # an error of the save before this one (full disk) is raised here, not lost
  checkpointer.save_checkpointables_async(step, dict(state=state._asdict()), force=True,
                                          custom_metadata=dict(data=dict(data), config=dict(config)))


def steps(directory: str | Path) -> list[int]:
  """Steps with a complete bundle, ascending."""
  directory = Path(directory).absolute()
  if not directory.is_dir():
    return []
  with open(directory) as checkpointer:
    return [c.step for c in checkpointer.checkpoints]


def restore(checkpointer, abstract: PyTree, shardings: PyTree, step: int | None = None) -> Restored | None:
  """The bundle at `step`, or the newest that can be read; None where there is none.

  A damaged bundle is set aside as `<step>.damaged`, with a loud message, and the one before it is tried.

  Raises:
    Mismatch: paths or shapes differ from `abstract`; lists the differences.
    FileNotFoundError: `step` is not there.
    RuntimeError: there are bundles and none can be read.
  """
  found = [c.step for c in checkpointer.checkpoints]
  if step is not None and step not in found:
    raise FileNotFoundError(
        f"no checkpoint of step {step} in {checkpointer.directory}; there are: {found or 'none'}")
  wanted = [step] if step is not None else found[::-1]
  for candidate in wanted:
    try:
      return _read(checkpointer, candidate, abstract, shardings)
    except Mismatch:
      raise
    except Exception as error:  # whatever Orbax or TensorStore raises on a truncated, missing or altered file
      logging.error("checkpoint %d in %s cannot be read and is set aside: %s: %s", candidate,
                    checkpointer.directory,
                    type(error).__name__, str(error).splitlines()[0] if str(error) else "")
      if step is not None:
        raise RuntimeError(f"checkpoint {candidate} in {checkpointer.directory} is damaged") from error
      if jax.process_index() == 0:
        _set_aside(Path(checkpointer.directory) / str(candidate))
      checkpointer.reload()
  if not wanted:
    return None
  raise RuntimeError(
      f"none of the checkpoints {found} in {checkpointer.directory} can be read; they are kept as *.damaged. "
      "Start again in another workdir, or restore a copy")


def describe(directory: str | Path,
             step: int | None = None) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
  """(path -> shape of every array, the config that wrote it) of the newest bundle or of `step`; reads no
  array.

  Raises:
    FileNotFoundError: no such bundle.
  """
  step = _step(directory, step)
  with open(directory) as checkpointer:
    metadata = checkpointer.checkpointables_metadata(step)
    return _shapes(metadata.metadata["state"]), (metadata.custom_metadata or {}).get("config", {})


def _step(directory, step):
  """`step`, or the newest."""
  found = steps(directory)
  if not found or (step is not None and step not in found):
    raise FileNotFoundError(f"no checkpoint{'' if step is None else f' of step {step}'} in {directory}; "
                            f"there are: {found or 'none'}")
  return found[-1] if step is None else step


def restore_part(directory: str | Path, step: int | None, abstract: PyTree, shardings: PyTree) -> PyTree:
  """Some subtrees of a state, {"params": {...}, "extra": {...}}, of the newest bundle or of `step`.

  Raises:
    FileNotFoundError: no such bundle. Mismatch: a wanted array is not in it, or has another shape.
  """
  step = _step(directory, step)
  with open(directory) as checkpointer:
    saved = _shapes(checkpointer.checkpointables_metadata(step).metadata["state"])
    wanted = _shapes(abstract)
    differences = compare({p: s for p, s in saved.items() if p in wanted}, wanted)
    if differences:
      raise Mismatch(f"checkpoint {step} in {directory} does not hold these weights:\n  "
                     + "\n  ".join(differences))
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    with ocp.Context(pytree_options=ocp.options.PyTreeOptions(
        loading=ocp.options.PyTreeOptions.Loading(partial_load=True))):
      return checkpointer.load_checkpointables(step, dict(state=like))["state"]


def write_tree(path: str | Path, tree: Mapping, about: Mapping) -> None:
  """A tree that is no train state, with what there is to say about it, in place of the one before."""
  ocp.save_checkpointables(Path(path).absolute(), dict(tree=dict(tree)), overwrite=True,
                           custom_metadata=dict(about))


def read_tree(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """(tree, what was said about it) of `write_tree`; None where there is none, or none that can be read."""
  path = Path(path).absolute()
  if not path.is_dir():
    return None
  try:
    found = ocp.checkpointables_metadata(path)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
                        found.metadata["tree"])
    return ocp.load_checkpointables(path, dict(tree=like))["tree"], found.custom_metadata or {}
  except Exception as error:  # as in `restore`
    logging.error("%s cannot be read and is left out: %s: %s", path, type(error).__name__, error)
    return None


def _read(checkpointer, step, abstract, shardings) -> Restored:
  metadata = checkpointer.checkpointables_metadata(step)
  like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract,
                      shardings)._asdict()
  differences = compare(_shapes(metadata.metadata["state"]), _shapes(like))
  if differences:
    raise Mismatch(f"checkpoint {step} in {checkpointer.directory} is of another method or architecture:\n  "
                   + "\n  ".join(differences) + "\nUse the config that wrote it, or another workdir")
  state = checkpointer.load_checkpointables(step, dict(state=like))["state"]
  saved = metadata.custom_metadata or {}
  if "data" not in saved:
    # without it the run would silently see the first batches again
    raise ValueError("the position of the data is missing")
  return Restored(type(abstract)(**state), saved["data"], saved["config"])


def _shapes(tree: Mapping) -> dict[str, tuple[int, ...]]:
  tree = {name: part for name, part in tree.items() if name != "key"}     # a typed key is stored as its words
  return {path_of(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)
          if hasattr(x, "shape")}


def compare(saved: Mapping[str, tuple], wanted: Mapping[str, tuple], limit: int = 12) -> list[str]:
  """Differences between two path -> shape tables, as lines."""
  lines = [f"only in the checkpoint: {p} {saved[p]}" for p in saved if p not in wanted]
  lines += [f"not in the checkpoint: {p} {wanted[p]}" for p in wanted if p not in saved]
  lines += [f"{p}: {saved[p]} in the checkpoint, {wanted[p]} wanted"
            for p in saved if p in wanted and saved[p] != wanted[p]]
  return lines[:limit] + ([f"... and {len(lines) - limit} more"] if len(lines) > limit else [])


def _set_aside(path: Path) -> None:
  target = path.with_name(path.name + ".damaged")
  if target.exists():
    shutil.rmtree(target)
  path.rename(target)
