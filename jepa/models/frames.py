"""World models over whole frames of patch tokens: the features of a frozen encoder, predictors that see all
of a frame and nothing ahead of it, and the frames they remember.

Shapes: z [B T N D] features of T frames, a [B T A] actions, s [B T P] proprioception.
"""
from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa import views
from jepa.losses.prediction import layer_norm
from jepa.models import backbone, layers as lib, positions, vit
from jepa.types import Net


def frozen(*, encoder: Mapping, mean: float | Sequence[float], std: float | Sequence[float],
           norm: bool = False) -> Net:
  """init(key, image) -> params; apply(params, image uint8 [... H W C]) -> f32 [... N D], without gradient.

  Args:
    encoder: of vit.encoder; a class token is left out. mean, std: of pixels in [0, 1], by channel, as the
      encoder was trained. norm: LayerNorm without affine on top.

  Raises:
    ValueError: the encoder is no ViT.
  """
  args = backbone.vit_args(encoder, "patch features are predicted")
  net = vit.encoder(**args)
  prepare = lambda image: views.standardise(image, mean, std)

  def apply(params, image):
    x = prepare(image.reshape(-1, *image.shape[-3:]))
    z = jax.lax.stop_gradient(backbone.of_vit(net.apply(params, x), args.get("cls", False)).tokens)
    return (layer_norm(z) if norm else z).reshape(*image.shape[:-3], *z.shape[1:])

  return Net(lambda key, image: net.init(key, prepare(image.reshape(-1, *image.shape[-3:]))), apply)


def flat(z: jax.Array) -> jax.Array:
  """The tokens of a frame side by side: [... N D] -> [... N*D]."""
  return z.reshape(*z.shape[:-2], -1)


# Predictors


def causal(frames: int, tokens: int) -> np.ndarray:
  """bool [1 T*n T*n]: a token sees every token of its own frame and of those before it."""
  frame = np.arange(frames * tokens) // tokens
  return frame[None, :, None] >= frame[None, None]


def joined(*, history: int = 3, depth: int = 6, heads: int = 16, mlp_ratio: float = 4.0,
           dtype: str = "float32") -> Net:
  """DINO-WM's predictor (arXiv 2411.04983): apply(params, x [B T N C]) -> f32 [B T N C], at t what follows
  from frames 1 ... t, T up to `history`. Tokens that hold actions among their channels are its residual
  stream, with learned positions before and a LayerNorm behind.

  Raises:
    ValueError: C is not divisible by the heads, or T is longer than the history.
  """
  compute = jnp.dtype(dtype)

  def parts(width):
    if width % heads:
      raise ValueError(f"predictor: tokens of {width} channels (features, proprioception, action) are not "
                       f"divisible by {heads} heads; choose other widths of the embeddings, or heads")
    block = lib.net(lib.Block(heads, round(width * mlp_ratio), compute))
    return lib.stack(block, depth), lib.net(lib.LayerNorm())

  def init(key, x):
    n, c = x.shape[2:]
    blocks, norm = parts(c)
    k_blocks, k_norm, k_positions = jax.random.split(key, 3)
    h = jnp.zeros((1, 1, c))
    return {"blocks": blocks.init(k_blocks, h), "norm": norm.init(k_norm, h),
            "positions": 0.02 * jax.random.normal(k_positions, (history * n, c))}

  def apply(params, x):
    b, t, n, c = x.shape
    if t > history:
      raise ValueError(f"predictor: {t} frames exceed its history of {history}")
    blocks, norm = parts(c)
    h = (x.reshape(b, t * n, c) + params["positions"][:t * n]).astype(compute)
    return norm.apply(params["norm"], blocks.apply(params["blocks"], h, causal(t, n))).reshape(x.shape)

  return Net(init, apply)


def interleaved(*, width: int = 1024, depth: int = 24, heads: int = 16, mlp_ratio: float = 4.0,
                dtype: str = "float32") -> Net:
  """V-JEPA 2-AC's predictor (arXiv 2506.09985): apply(params, z [B T N D], a [B T A], s [B T P]) ->
  f32 [B T N D], at t what follows from frames 1 ... t, normalised. A frame is the sequence action, state,
  patches of a square grid, each projected to `width`; positions are rotary, 3-D for patches and temporal for
  the other two.

  Raises:
    ValueError: the width is not divisible by the heads, or N is not a square.
  """
  if width % heads:
    raise ValueError(f"predictor: a width of {width} is not divisible by {heads} heads")
  compute = jnp.dtype(dtype)
  into = lib.net(lib.Dense(width, compute))
  blocks = lib.stack(lib.net(lib.Block(heads, round(width * mlp_ratio), compute)), depth)
  norm = lib.net(lib.LayerNorm(compute))
  out = lambda d: lib.net(lib.Dense(d, compute))

  def init(key, z, a, s):
    keys = jax.random.split(key, 6)
    h = jnp.zeros((1, 1, width))
    return {"patches": into.init(keys[0], z), "action": into.init(keys[1], a),
            "state": into.init(keys[2], s), "blocks": blocks.init(keys[3], h), "norm": norm.init(keys[4], h),
            "out": out(z.shape[-1]).init(keys[5], h)}

  def apply(params, z, a, s):
    b, t, n, d = z.shape
    side = math.isqrt(n)
    if side * side != n:
      raise ValueError(f"predictor: {n} patches are no square grid; choose square images")
    one = lambda name, x: into.apply(params[name], x)[:, :, None]
    x = jnp.concatenate([one("action", a), one("state", s), into.apply(params["patches"], z)], 2)
    rows, columns = np.divmod(np.arange(n), side)
    place = np.stack(np.broadcast_arrays(
        np.arange(t)[:, None], np.pad(rows, (2, 0)), np.pad(columns, (2, 0))), -1).reshape(-1, 3)
    x = blocks.apply(params["blocks"], x.reshape(b, -1, width), causal(t, n + 2),
                     positions.rope_3d(place, width // heads))
    x = norm.apply(params["norm"], x).reshape(b, t, n + 2, width)[:, :, 2:]
    return layer_norm(out(d).apply(params["out"], x))

  return Net(init, apply)


# What is remembered


class Window(NamedTuple):
  """The last frames, oldest first. From `count` on the slots are empty, which a causal predictor does not
  see; the newest frame's action is yet to be taken."""

  z: jax.Array                      # [B T N D]
  s: jax.Array                      # [B T P], P = 0 where there is none
  a: jax.Array                      # [B T A]
  count: jax.Array                  # int32 [B]


def begin(z_BND: jax.Array, s_BP: jax.Array, *, history: int, actions: int) -> Window:
  """One frame."""
  first = lambda x: jnp.pad(x[:, None], ((0, 0), (0, history - 1)) + ((0, 0),) * (x.ndim - 1))
  b = len(z_BND)
  return Window(first(z_BND), first(s_BP), jnp.zeros((b, history, actions)), jnp.ones(b, jnp.int32))


def act(window: Window, action_BA: jax.Array) -> Window:
  """With the newest frame's action."""
  return window._replace(a=_put(window.a, window.count - 1, action_BA))


def append(window: Window, z_BND: jax.Array, s_BP: jax.Array) -> Window:
  """With a frame more; the oldest is dropped where there is no room."""
  length = window.z.shape[1]
  full = window.count == length
  make_room = lambda x: jnp.where(_like(full, x), jnp.roll(x, -1, 1), x)
  slot = jnp.minimum(window.count, length - 1)
  return Window(_put(make_room(window.z), slot, z_BND), _put(make_room(window.s), slot, s_BP),
                make_room(window.a), slot + 1)


def newest(window: Window, x_BT: jax.Array) -> jax.Array:
  """Of x [B T ...] what belongs to the newest frame, [B ...]."""
  return jax.vmap(lambda x, i: jax.lax.dynamic_index_in_dim(x, i, keepdims=False))(x_BT, window.count - 1)


def _put(x_BT, slot_B, value_B):
  there = jnp.arange(x_BT.shape[1]) == slot_B[:, None]
  return jnp.where(there.reshape(*there.shape, *(1,) * (x_BT.ndim - 2)), value_B[:, None], x_BT)


def _like(flag_B, x):
  return flag_B.reshape(-1, *(1,) * (x.ndim - 1))
