"""Predictors of the next latent state: from a state and an action (`make`), or from a history of both
(`transformer`).

Shapes: z [B D] state, a [B A] action; T steps of a history.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jepa.models import layers as lib
from jepa.types import Net


class GRU(nn.Module):
  """z + a linear map of a gated unit (Cho et al., 2014, arXiv 1406.1078) whose memory is the state and whose
  input is the action, as in PLDM (arXiv 2502.14819)."""

  width: int

  @nn.compact
  def __call__(self, z, a):
    dense = lambda name, features=self.width: lib.Dense(features, name=name)
    h = dense("state")(z)
    reset = nn.sigmoid(dense("reset_state")(h) + dense("reset_action")(a))
    update = nn.sigmoid(dense("update_state")(h) + dense("update_action")(a))
    new = jnp.tanh(dense("new_action")(a) + reset * dense("new_state")(h))
    return z + dense("out", z.shape[-1])((1 - update) * new + update * h)


class MLP(nn.Module):
  """z + hidden layers of (z, a), each with a LayerNorm if asked, and with gates if asked,
  norm(x U) * gelu(x V) (GEGLU, arXiv 2002.05202), since what an action does depends on where the walls are.

  A relu costs a CPU a fraction of a gelu, and narrow layers are bound by it. Where a wall stops a dot is
  decided by a thirtieth of the state's range: deep layers with norms learn that sooner.
  """

  width: int
  depth: int = 2
  norm: bool = False
  gated: bool = False
  activation: str = "gelu"

  @nn.compact
  def __call__(self, z, a):
    act = lib.ACTIVATIONS[self.activation]
    x = jnp.concatenate([z, a], -1)
    for i in range(self.depth):
      h = lib.Dense(self.width, name=f"hidden{i}")(x)
      if self.norm:
        h = lib.LayerNorm(jnp.float32, name=f"norm{i}")(h)
      x = h * act(lib.Dense(self.width, name=f"gate{i}")(x)) if self.gated else act(h)
    return z + lib.Dense(z.shape[-1], name="out")(x)


KINDS = {"gru": GRU, "mlp": MLP}


def make(*, kind: str = "gru", width: int = 512, members: int = 1, **args) -> Net:
  """apply(params, z [B D], a [B A]) -> the next state [B D].

  Args:
    kind: "gru", "mlp", or "transformer": that of `transformer` without a past; its width is D.
    members: with 2 or more, so many nets that differ in their first weights, each with a state of its own:
      z [B M D] -> [B M D]. Where they disagree none of them knows.
    args: of it; of the MLP depth (2), norm (False), gated (False) and activation ("gelu" or "relu").

  Raises:
    ValueError: an unknown kind or activation.
  """
  if members > 1:
    one = make(kind=kind, width=width, **args)
    return Net(lambda key, z, a: {f"member{i}": one.init(k, z[:, i], a)
                                  for i, k in enumerate(jax.random.split(key, members))},
               lambda params, z, a: jnp.stack([one.apply(params[f"member{i}"], z[:, i], a)
                                               for i in range(members)], 1))
  if kind == "transformer":
    net = transformer(width=width, history=1, **args)
    return Net(lambda key, z, a: net.init(key, z[:, None], a[:, None]),
               lambda params, z, a: net.apply(params, z[:, None], a[:, None])[:, 0])
  if kind not in KINDS:
    raise ValueError(f"predictor {kind!r} is unknown; choose one of {', '.join((*KINDS, 'transformer'))}")
  if args.get("activation", "gelu") not in lib.ACTIVATIONS:
    raise ValueError(f"predictor.activation = {args['activation']!r} is unknown; "
                     f"choose {' or '.join(lib.ACTIVATIONS)}")
  return lib.net(KINDS[kind](width, **args))


class AdaBlock(nn.Module):
  """Pre-norm transformer block whose normalised inputs are scaled and shifted, and whose outputs are gated,
  by a condition. Maps that start at zero make the block start as the identity (AdaLN-zero,
  arXiv 2212.09748)."""

  heads: int
  hidden: int
  gate_std: float

  @nn.compact
  def __call__(self, x, condition, see):
    d = x.shape[-1]
    modulation = nn.Dense(6 * d, kernel_init=nn.initializers.normal(self.gate_std), name="modulation")
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation(nn.silu(condition)), 6, -1)
    norm = lambda h: nn.LayerNorm(use_scale=False, use_bias=False)(h)
    y = norm(x) * (1 + scale1) + shift1
    x = x + gate1 * lib.Attention(self.heads, name="attention")(y, see)
    y = lib.Dense(self.hidden, name="up")(norm(x) * (1 + scale2) + shift2)
    return x + gate2 * lib.Dense(d, name="down")(nn.gelu(y, approximate=False))


def transformer(*, width: int, history: int = 3, depth: int = 6, heads: int = 16, mlp_ratio: float = 4.0,
                gate_std: float = 0.0) -> Net:
  """apply(params, z [B T width], a [B T A]) -> [B T width]: at t the prediction of z_t+1 from z_1..t and
  a_1..t, T up to `history`. Learned positions; actions enter by AdaLN-zero (LeWM, arXiv 2603.19312).

  Args:
    gate_std: of the maps that modulate; 0 as published.

  Raises:
    ValueError: a width that the heads do not divide.
  """
  if width % heads:
    raise ValueError(f"predictor: a width of {width} is not divisible by {heads} heads")
  block = lib.net(AdaBlock(heads, round(width * mlp_ratio), gate_std))
  action, norm, out = (lib.net(m) for m in (lib.Dense(width), lib.LayerNorm(), lib.Dense(width)))

  def init(key, z, a):
    keys = jax.random.split(key, 4)
    each = jax.random.split(jax.random.fold_in(key, 4), depth)
    see = jnp.ones((1, 1, 1), bool)
    z, a = z[:1, :1], a[:1, :1]
    return {"action": action.init(keys[0], a), "norm": norm.init(keys[1], z), "out": out.init(keys[2], z),
            "positions": 0.02 * jax.random.normal(keys[3], (history, width)),
            "blocks": jax.vmap(lambda k: block.init(k, z, z, see))(each)}

  def apply(params, z, a):
    t = z.shape[1]
    if t > history:
      raise ValueError(f"predictor: {t} steps exceed its history of {history}")
    see = jnp.broadcast_to(np.tri(t, dtype=bool), (len(z), t, t))
    condition = action.apply(params["action"], a)
    x = z + params["positions"][:t]
    for i in range(depth):
      x = block.apply(jax.tree.map(lambda p: p[i], params["blocks"]), x, condition, see)
    return out.apply(params["out"], norm.apply(params["norm"], x))

  return Net(init, apply)
