"""Floating-point operations of a traced function, and the peaks of known accelerators.

Counted from the jaxpr: matrix products and convolutions, 2 operations a multiply-add, loops times their
length. XLA's own cost analysis counts the body of a loop once, which would lose every layer but one of a
scanned tower.
"""
from collections.abc import Callable
import math

import jax
from jax.extend import core

# Dense bf16 peaks in FLOP/s, from the vendors' data sheets, by a part of jax's device_kind.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "V100": 125e12, "TPU v4": 275e12,
         "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12}


def peak(device: jax.Device) -> float | None:
  """Peak bf16 FLOP/s of a device; None where it is not known (every CPU)."""
  return next((v for k, v in PEAKS.items() if k in device.device_kind), None)


def count(function: Callable, *args) -> float:
  """Operations of one call of `function` on (abstract) arguments, over all devices."""
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name, p = eqn.primitive.name, eqn.params
    if name == "dot_general":
      (contract, _), _ = p["dimension_numbers"]
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i]
                                                                    for i in contract)
    elif name == "conv_general_dilated":
      kernel = eqn.invars[1].aval.shape
      per_output = math.prod(kernel) / kernel[p["dimension_numbers"].rhs_spec[0]]
      # of a strided convolution's gradient: rows of zeros are not multiplied
      zeros = math.prod(p["lhs_dilation"])
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * per_output / zeros
    elif name == "cond":
      total += max(_count(b.jaxpr) for b in p["branches"])
    else:
      times = p["length"] if name == "scan" else 1
      total += times * sum(_count(j) for j in _inner(p))
  return total


def _inner(params):
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
