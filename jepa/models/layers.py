"""Transformer layers in Flax Linen, and `stack`, which makes a tower of one. Parameters f32;
`dtype` is that of the compute."""
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jepa.models import positions
from jepa.types import Net, Params

ACTIVATIONS = {"gelu": lambda x: nn.gelu(x, approximate=False), "relu": nn.relu}
REMAT = {"none": None, "full": jax.checkpoint_policies.nothing_saveable,
         "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def weight_init(std: float = 0.0):
  """Truncated normal of the given standard deviation, or of 1 / sqrt(fan-in) for 0.

  Papers publish 0.02, which is 1 / sqrt(fan-in) at a width of 2,500;
  in a narrow network it leaves every block near the identity.
  """
  if std:
    return nn.initializers.truncated_normal(std)
  return lambda key, shape, dtype=jnp.float32: nn.initializers.truncated_normal(shape[0] ** -0.5)(
      key, shape, dtype)


class LayerNorm(nn.Module):
  """LayerNorm with scale and bias, statistics in f32."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    h = x.astype(jnp.float32)
    h = h - h.mean(-1, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-6)
    return (h * scale + bias).astype(self.dtype)


class Dense(nn.Module):
  """x [... D] @ kernel + bias. Leading axes are flattened first: the weight gradient is then one plain matrix
  product."""

  features: int
  dtype: Any = jnp.float32
  init_std: float = 0.0

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", weight_init(self.init_std), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)


class QKV(nn.Module):
  """Queries, keys and values [B N 3 D] of x [B N D] in one product;
  the kernel [D 3 D] keeps heads apart for the tensor axis."""

  dtype: Any = jnp.float32
  init_std: float = 0.0

  @nn.compact
  def __call__(self, x):
    b, n, d = x.shape
    kernel = self.param("kernel", weight_init(self.init_std), (d, 3, d))
    bias = self.param("bias", nn.initializers.zeros, (3, d))
    y = jnp.einsum("nd,dte->nte", x.reshape(-1, d).astype(self.dtype), kernel.astype(self.dtype))
    return (y + bias.astype(self.dtype)).reshape(b, n, 3, d)


class Attention(nn.Module):
  """Multi-head self-attention. `see` is bool: [B N], keys that may be attended to, or [B N N], by query.

  Scores and softmax in f32. Written with heads before tokens [B H N K], which XLA's CPU products run 7 % of a
  step faster than jax.nn.dot_product_attention; on a GPU that one is used, for its fused kernels.
  """

  heads: int
  dtype: Any = jnp.float32
  init_std: float = 0.0

  @nn.compact
  def __call__(self, x, see=None, rope=None):
    b, n, d = x.shape
    qkv = QKV(self.dtype, self.init_std, name="qkv")(x).reshape(b, n, 3, self.heads, d // self.heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    if rope is not None:
      q, k = positions.rotate(q, rope), positions.rotate(k, rope)
    mask = None if see is None else see[:, None, None, :] if see.ndim == 2 else see[:, None]
    if jax.default_backend() == "cpu":
      y = _attend(*(t.swapaxes(1, 2) for t in (q, k, v)), mask).swapaxes(1, 2)
    else:
      y = jax.nn.dot_product_attention(q, k, v, mask=mask)
    return Dense(d, self.dtype, self.init_std, name="out")(y.reshape(b, n, d))


def _attend(q_BHNK, k_BHNK, v_BHNK, mask):
  scores = jnp.einsum("bhqk,bhnk->bhqn", q_BHNK, k_BHNK).astype(jnp.float32) / q_BHNK.shape[-1] ** 0.5
  if mask is not None:
    scores = jnp.where(mask, scores, -1e9)
  return jnp.einsum("bhqn,bhnk->bhqk", jax.nn.softmax(scores).astype(v_BHNK.dtype), v_BHNK)


class Block(nn.Module):
  """Pre-norm transformer block."""

  heads: int
  hidden: int
  dtype: Any = jnp.float32
  init_std: float = 0.0

  @nn.compact
  def __call__(self, x, see=None, rope=None):
    d = x.shape[-1]
    y = LayerNorm(self.dtype, name="norm1")(x)
    x = x + Attention(self.heads, self.dtype, self.init_std, name="attention")(y, see, rope)
    y = Dense(self.hidden, self.dtype, self.init_std, name="up")(LayerNorm(self.dtype, name="norm2")(x))
    return x + Dense(d, self.dtype, self.init_std, name="down")(nn.gelu(y, approximate=False))


def net(module: nn.Module) -> Net:
  """A Linen module without state as a Net."""
  return Net(init=lambda key, *a: module.init(key, *a)["params"],
             apply=lambda params, *a: module.apply({"params": params}, *a))


class Stack(NamedTuple):
  """A tower: `apply` gives what leaves the last block, `trace` what leaves each of the last K,
  first to last [K B N D]."""

  init: Callable[..., Params]
  apply: Callable[..., jax.Array]      # (params, x, *inputs) -> x
  trace: Callable[..., jax.Array]      # (params, K, x, *inputs) -> [K ...]


def stack(block: Net, depth: int, *, remat: str = "none", scan: bool | None = None) -> Stack:
  """`depth` blocks with stacked parameters: each leaf has a leading axis of layers.

  Args:
    remat: what the backward pass computes again: "none", "dots" (all but matrix products), "full".
    scan: one compiled block in a loop (fast to compile), or unrolled (faster to run on a CPU).
      None: scan from 13 layers on.
  """
  if remat not in REMAT:
    raise ValueError(f"remat {remat!r} is unknown; choose one of {', '.join(REMAT)}")
  scan = depth > 12 if scan is None else scan
  one = block.apply if remat == "none" else jax.checkpoint(block.apply, policy=REMAT[remat])

  def init(key, *inputs):
    params = jax.vmap(lambda k: block.init(k, *inputs))(jax.random.split(key, depth))
    return _scale_residual(params, depth)

  def each(params):
    # lax.split, whose transpose is one concatenation; the transpose of indexing adds a whole stack of zeros
    # for each layer.
    leaves, tree = jax.tree.flatten(params)
    split = [jax.lax.split(leaf, [1] * depth) for leaf in leaves]
    return [jax.tree.unflatten(tree, [parts[i][0] for parts in split]) for i in range(depth)]

  def apply(params, x, *inputs):
    if scan:
      return jax.lax.scan(lambda h, p: (one(p, h, *inputs), None), x, params)[0]
    for p in each(params):
      x = one(p, x, *inputs)
    return x

  def trace(params, last, x, *inputs):
    if scan:
      step = lambda h, p: (one(p, h, *inputs),) * 2
      return jax.lax.scan(step, x, params)[1][depth - last:]
    outputs = []
    for p in each(params):
      x = one(p, x, *inputs)
      outputs.append(x)
    return jnp.stack(outputs[depth - last:])

  return Stack(init, apply, trace)


def _scale_residual(params, depth):
  """Divides what enters the residual stream by sqrt(2 * layer), layers counted from 1
  (as in BEiT and I-JEPA)."""
  layer = jnp.sqrt(2.0 * jnp.arange(1, depth + 1))[:, None, None]
  attention = params["attention"] | {"out": params["attention"]["out"]
                                     | {"kernel": params["attention"]["out"]["kernel"] / layer}}
  return params | {"attention": attention,
                   "down": params["down"] | {"kernel": params["down"]["kernel"] / layer}}
