"""Where arrays live. The only file that knows the mesh: its axes, logical axes, the rule of every parameter.

Axes: `data` replicates parameters and splits the batch; `fsdp` splits both; `tensor` splits heads and hidden
units. Losses and models are written in the global view (`z.mean(0)` is the mean of the global batch), so
nothing else changes between a laptop and a pod.
"""
import math
import re
from typing import NamedTuple

from absl import logging
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from jepa.optim import path_of
from jepa.types import PyTree

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axis.
LOGICAL = {"batch": ("data", "fsdp"), "embed": "fsdp", "heads": "tensor", "hidden": "tensor", None: None}

# Path rule -> logical axes of the last dimensions (leading ones, of stacked layers, stay whole). First match
# wins, on the END of the path: one row covers a weight, its EMA copy (extra/target/...)
# and its Adam moments (opt/.../mu/...).
RULES = (
    (r"qkv/kernel$", ("embed", None, "heads")),        # [D, 3, D]
    (r"qkv/bias$", (None, "heads")),
    (r"(attention|out)/out/kernel$", ("heads", "embed")),
    (r"up/kernel$", ("embed", "hidden")),
    (r"up/bias$", ("hidden",)),
    (r"down/kernel$", ("hidden", "embed")),
    (r"conv\d*/kernel$", (None, None, None, "embed")),
    (r"kernel$", (None, "embed")),
    (r"normaliser/\w+/(mean|std)$", (None,)),           # few numbers, of actions and positions
    (r"(scale|bias|mean|var|token)$", ("embed",)),
    (r"(positions|queue|latents)$", (None, "embed")),
    (r"centre$", ("embed",)),
)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
  """A mesh over all devices; one axis may be -1 (all that are left).

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  sizes, count = [data, fsdp, tensor], jax.device_count()
  if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
    raise ValueError(f"config.mesh {dict(zip(AXES, sizes))}: sizes are positive, and one of them may be -1")
  if -1 in sizes:
    sizes[sizes.index(-1)] = max(1, count // -math.prod(sizes))
  if math.prod(sizes) != count:
    raise ValueError(f"config.mesh {dict(zip(AXES, sizes))} needs {math.prod(sizes)} devices and there are "
                     f"{count}; set one axis "
                     "to -1, or on a CPU set XLA_FLAGS=--xla_force_host_platform_device_count=N")
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """The partition of one array: its rule, less every axis that does not divide the dimension. Of a name
  without a rule: the largest dimension that fsdp divides is split; none if there is no such one."""
  if not shape or math.prod(shape) == 1:
    return P()
  axes = _rule(path)
  if axes is None:
    split = max((n for n in shape if n % mesh.shape["fsdp"] == 0), default=None)
    at = shape.index(split) if split else None
    return P(*("fsdp" if i == at else None for i in range(len(shape))))
  axes = (None,) * (len(shape) - len(axes)) + axes[-len(shape):]
  fits = lambda axis, size: axis and size % mesh.shape[axis] == 0
  return P(*(LOGICAL[a] if fits(LOGICAL[a], n) else None for a, n in zip(axes, shape)))


def _rule(path: str) -> tuple[str | None, ...] | None:
  return next((axes for pattern, axes in RULES if re.search(pattern, path)), None)


def of_state(abstract: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for every leaf of an abstract state."""
  def one(path, x):
    whole = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return NamedSharding(mesh, P() if whole else spec_of(path_of(path), x.shape, mesh))
  return jax.tree_util.tree_map_with_path(one, abstract)


def of_batch(mesh: Mesh) -> NamedSharding:
  """Batches are split over data and fsdp."""
  return NamedSharding(mesh, P(LOGICAL["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


class Row(NamedTuple):
  """One array of the state, for the parameter table."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  bytes: int
  bytes_per_device: int
  spec: str
  ruled: bool                     # False: no rule of RULES is of its name, so it was split by its sizes


def rows(abstract: PyTree, shardings: PyTree) -> list[Row]:
  """What is where, one row an array."""
  out = []
  for (path, x), s in zip(jax.tree_util.tree_leaves_with_path(abstract), jax.tree.leaves(shardings)):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      continue
    item = x.dtype.itemsize
    local = math.prod(s.shard_shape(x.shape)) if x.shape else 1
    name = path_of(path)
    ruled = x.size == 1 or _rule(name) is not None
    out.append(Row(name, tuple(x.shape), str(x.dtype), math.prod(x.shape) * item, local * item, str(s.spec),
                   ruled))
  return out


def table(state_rows: list[Row]) -> str:
  """The rows as text, with totals."""
  width = max(len(r.path) for r in state_rows)
  lines = [f"{'array':<{width}}  {'shape':<20} {'dtype':<9} {'bytes':>14} {'a device':>14}  partition"]
  lines += [f"{r.path:<{width}}  {str(r.shape):<20} {r.dtype:<9} {r.bytes:>14,} {r.bytes_per_device:>14,}  "
            f"{r.spec}{'' if r.ruled else '  no rule'}" for r in state_rows]
  lines.append(f"{'total':<{width}}  {'':<20} {'':<9} {sum(r.bytes for r in state_rows):>14,} "
               f"{sum(r.bytes_per_device for r in state_rows):>14,}")
  return "\n".join(lines)


def check(state_rows: list[Row], mesh: Mesh, tolerance: float) -> float:
  """The share of bytes held whole by every device.

  Raises:
    ValueError: it is above `tolerance` although fsdp > 1; names the largest such arrays.
  """
  whole = [r for r in state_rows if r.bytes == r.bytes_per_device]
  share = sum(r.bytes for r in whole) / max(1, sum(r.bytes for r in state_rows))
  if mesh.shape["fsdp"] > 1 and share > tolerance:
    worst = sorted(whole, key=lambda r: -r.bytes)[:5]
    raise ValueError(
        f"{share:.1%} of the state is replicated on a mesh with fsdp={mesh.shape['fsdp']} (tolerance "
        f"{tolerance:.1%}). Largest: "
        + ", ".join(f"{r.path} {r.shape}" for r in worst)
        + ". Choose widths divisible by fsdp, or raise config.replicated_tolerance")
  return share


def describe(abstract: PyTree, shardings: PyTree, mesh: Mesh, tolerance: float) -> str:
  """parameters.txt of a state: the table, and the share of bytes that is whole on every device.

  Raises:
    ValueError: as of `check`.
  """
  found = rows(abstract, shardings)
  share, without = check(found, mesh, tolerance), sum(not r.ruled for r in found)
  trained = sum(x.size for x in jax.tree.leaves(abstract.params))
  logging.info("%s trained parameters, %.1f %% of the state replicated", f"{trained:,}", 100 * share)
  named = f"arrays without a rule of jepa/sharding.py, split by their sizes: {without}\n" if without else ""
  return (f"{table(found)}\n\ntrained parameters: {trained:,}\n{named}replicated on every device: "
          f"{share:.2%} of bytes\n")
