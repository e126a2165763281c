"""Vision Transformer over all or some patches of an image (arXiv 2010.11929), and I-JEPA's narrow predictor.

Shapes: images [B H W C]; tokens are row-major over the grid (H / patch, W / patch);
`Tokens` says which of them to encode.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jepa import masks
from jepa.models import layers as lib, positions
from jepa.types import Net, Tokens

# name: (width, depth, heads, mlp ratio)
VARIANTS = {"Ti": (192, 12, 3, 4.0), "S": (384, 12, 6, 4.0), "B": (768, 12, 12, 4.0),
            "L": (1024, 24, 16, 4.0), "H": (1280, 32, 16, 4.0), "g": (1408, 40, 16, 48 / 11)}


def shape_of(variant: str = "", width: int = 0, depth: int = 0, heads: int = 0, mlp_ratio: float = 0.0):
  """(width, depth, heads, mlp ratio): the variant's, each overridden by what is given.

  Raises:
    ValueError: an unknown variant, or no variant and a missing size.
  """
  if variant and variant not in VARIANTS:
    raise ValueError(f"ViT variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
  named = VARIANTS.get(variant, (0, 0, 0, 4.0))
  width, depth, heads, mlp_ratio = (given or default
                                    for given, default in zip((width, depth, heads, mlp_ratio), named))
  if not (width and depth and heads):
    raise ValueError("a ViT needs a variant, or width, depth and heads")
  if width % heads:
    raise ValueError(f"ViT width {width} is not divisible by {heads} heads")
  return width, depth, heads, mlp_ratio


def width_of(encoder: Mapping) -> int:
  """The width of the encoder with these keyword arguments of `encoder`."""
  return shape_of(**{k: encoder[k] for k in ("variant", "width", "depth", "heads") if k in encoder})[0]


def grid_of(image: jax.Array, patch: int) -> tuple[int, int]:
  """(rows, columns) of patches of images [B H W C].

  Raises:
    ValueError: the side is no multiple of the patch.
  """
  _, h, w, _ = image.shape
  if h % patch or w % patch:
    raise ValueError(
        f"image {h}x{w} is not divisible into patches of {patch}: choose another patch or image size")
  return h // patch, w // patch


def patches(image: jax.Array, patch: int) -> jax.Array:
  """Images [B H W C] -> [B N patch*patch*C]."""
  b, _, _, c = image.shape
  rows, columns = grid_of(image, patch)
  x = image.reshape(b, rows, patch, columns, patch, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, rows * columns, patch * patch * c)


def encoder(*, variant: str = "", width: int = 0, depth: int = 0, heads: int = 0, mlp_ratio: float = 0.0,
            patch: int = 16, position: str = "sincos", cls: bool = False, mask_token: bool = False,
            init_std: float = 0.0, remat: str = "none", scan: bool | None = None,
            dtype: str = "float32") -> Net:
  """init(key, image) -> params;
  apply(params, image [B H W C], tokens=None, layers=0, hidden=None, see=None) -> [B N D], or [B K D] of
  `tokens`.

  With `tokens` the others are dropped before the first product, so the cost is that of the kept ones. With
  `layers` L > 0: what leaves the last L blocks, not normalised, [L B N D]. `hidden` bool [B N]: patches
  replaced by the mask token. `see` bool [B N N]: which patches each one attends to; the class token then
  attends to all of them and none to it.

  Args:
    variant: "Ti", "S", "B", "L", "H", "g"; width, depth, heads, mlp_ratio override it.
    position: "sincos" (fixed 2-D), "learned", or "rope" (in every attention).
    cls: a class token, first of the output ([B 1+N D]). mask_token: a learned vector for `hidden` patches.
    init_std: of the weights; 0: 1 / sqrt(fan-in). remat, scan: see layers.stack.
    dtype: of the compute ("bfloat16"); parameters are f32.
  """
  width, depth, heads, mlp_ratio = shape_of(variant, width, depth, heads, mlp_ratio)
  if position not in ("sincos", "learned", "rope"):
    raise ValueError(f"positions {position!r} are unknown; choose one of sincos, learned, rope")
  compute = jnp.dtype(dtype)
  embed = lib.net(lib.Dense(width, compute, init_std))
  blocks = lib.stack(lib.net(lib.Block(heads, round(width * mlp_ratio), compute, init_std)), depth,
                     remat=remat, scan=scan)
  norm = lib.net(lib.LayerNorm(compute))

  def init(key, image):
    keys = jax.random.split(key, 4)
    x = patches(image, patch)
    h = jnp.zeros((1, 1, width))
    params = {"patch": embed.init(keys[0], x[:1, :1]), "blocks": blocks.init(keys[1], h),
              "norm": norm.init(keys[2], h)}
    if position == "learned":
      params["positions"] = 0.02 * jax.random.normal(keys[3], (x.shape[1], width))
    for name, wanted, k in (("cls", cls, 4), ("mask", mask_token, 5)):
      if wanted:
        params[name] = {"token": 0.02 * jax.random.normal(jax.random.fold_in(key, k), (width,))}
    return params

  def apply(params, image, tokens: Tokens | None = None, layers: int = 0, hidden: jax.Array | None = None,
            see: jax.Array | None = None):
    grid = grid_of(image, patch)
    x = patches(image, patch)
    index = jnp.arange(x.shape[1])[None]
    if tokens is not None:
      index, see = tokens.index, tokens.valid
      x = masks.gather(x, tokens)
    x = embed.apply(params["patch"], x)
    if hidden is not None:
      x = jnp.where(hidden[..., None], params["mask"]["token"].astype(compute), x)
    if position != "rope":
      table = jnp.asarray(positions.sincos_2d(width, grid)) if position == "sincos" else params["positions"]
      x = x + table[index].astype(compute)
    if cls:   # it has no place: a rotation by place 0 is none
      first = jnp.broadcast_to(params["cls"]["token"].astype(compute), (x.shape[0], 1, width))
      x, index = jnp.concatenate([first, x], 1), jnp.pad(index, ((0, 0), (1, 0)))
      if see is not None:
        see = jnp.pad(see, ((0, 0),) + ((1, 0),) * (see.ndim - 1), constant_values=True)
        see = see.at[:, 1:, 0].set(False) if see.ndim == 3 else see   # else it would tell them what they hide
    rope = positions.rope_2d(index, grid, width // heads) if position == "rope" else None
    if layers:
      return blocks.trace(params["blocks"], layers, x, see, rope).astype(jnp.float32)
    x = blocks.apply(params["blocks"], x, see, rope)
    return norm.apply(params["norm"], x).astype(jnp.float32)

  return Net(init, apply)


def predictor(*, inputs: int, outputs: int = 0, width: int = 384, depth: int = 12, heads: int = 12,
              mlp_ratio: float = 4.0, position: str = "sincos", joint: bool = False, init_std: float = 0.0,
              remat: str = "none", scan: bool | None = None, dtype: str = "float32") -> Net:
  """I-JEPA's predictor (arXiv 2301.08243): a narrow ViT that fills mask tokens,
  each block of targets on its own. With pixels as `outputs` it is MAE's decoder (arXiv 2111.06377).

  init(key) -> params; apply(params, z [B K inputs], context Tokens [B K], targets Tokens [B M Kt], grid) ->
  [B M Kt outputs] (outputs 0: as many as inputs). The context is repeated for every block and blocks do not
  see each other, or, with `joint`, all are filled in one pass (as in V-JEPA, arXiv 2404.08471), which costs
  less.
  """
  if width % heads:
    raise ValueError(f"predictor width {width} is not divisible by {heads} heads")
  compute = jnp.dtype(dtype)
  outputs = outputs or inputs
  inp, out = (lib.net(lib.Dense(d, compute, init_std)) for d in (width, outputs))
  blocks = lib.stack(lib.net(lib.Block(heads, round(width * mlp_ratio), compute, init_std)), depth,
                     remat=remat, scan=scan)
  norm = lib.net(lib.LayerNorm(compute))

  def init(key):
    keys = jax.random.split(key, 5)
    h = jnp.zeros((1, 1, width))
    return {"in": inp.init(keys[0], jnp.zeros((1, 1, inputs))), "blocks": blocks.init(keys[1], h),
            "norm": norm.init(keys[2], h),
            "out": out.init(keys[3], h), "mask": {"token": 0.02 * jax.random.normal(keys[4], (width,))}}

  def apply(params, z_BKD, context: Tokens, targets: Tokens, grid: tuple[int, int]):
    shape = targets.index.shape
    if joint:
      targets = Tokens(*(t.reshape(shape[0], 1, -1) for t in targets))
    b, m, kt = targets.index.shape
    fold = lambda x: jnp.repeat(x, m, 0)      # the context once for every block
    index = jnp.concatenate([fold(context.index), targets.index.reshape(b * m, kt)], 1)
    valid = jnp.concatenate([fold(context.valid), targets.valid.reshape(b * m, kt)], 1)
    x = fold(inp.apply(params["in"], z_BKD))
    mask = jnp.broadcast_to(params["mask"]["token"].astype(compute), (b * m, kt, width))
    x = jnp.concatenate([x, mask], 1)
    rope = positions.rope_2d(index, grid, width // heads) if position == "rope" else None
    if rope is None:
      x = x + jnp.asarray(positions.sincos_2d(width, grid))[index].astype(compute)
    x = blocks.apply(params["blocks"], x, valid, rope)[:, -kt:]
    x = out.apply(params["out"], norm.apply(params["norm"], x)).astype(jnp.float32)
    return x.reshape(*shape, outputs)

  return Net(init, apply)


def decoder(*, inputs: int, outputs: int, width: int = 512, depth: int = 8, heads: int = 16,
            mlp_ratio: float = 4.0, init_std: float = 0.0, remat: str = "none", scan: bool | None = None,
            dtype: str = "float32") -> Net:
  """A narrow ViT from representations to pixels: init(key) -> params;
  apply(params, z, grid) -> [B N outputs], of tokens z [B N inputs], or of one vector an image z [B inputs]
  that every place of the grid starts from."""
  if width % heads:
    raise ValueError(f"decoder width {width} is not divisible by {heads} heads")
  compute = jnp.dtype(dtype)
  inp, out = (lib.net(lib.Dense(d, compute, init_std)) for d in (width, outputs))
  blocks = lib.stack(lib.net(lib.Block(heads, round(width * mlp_ratio), compute, init_std)), depth,
                     remat=remat, scan=scan)
  norm = lib.net(lib.LayerNorm(compute))

  def init(key):
    keys = jax.random.split(key, 4)
    h = jnp.zeros((1, 1, width))
    return {"in": inp.init(keys[0], jnp.zeros((1, 1, inputs))), "blocks": blocks.init(keys[1], h),
            "norm": norm.init(keys[2], h), "out": out.init(keys[3], h)}

  def apply(params, z, grid: tuple[int, int]):
    x = inp.apply(params["in"], z if z.ndim == 3 else z[:, None])
    x = x + jnp.asarray(positions.sincos_2d(width, grid)).astype(compute)
    x = blocks.apply(params["blocks"], x, None, None)
    return out.apply(params["out"], norm.apply(params["norm"], x)).astype(jnp.float32)

  return Net(init, apply)


def parameters(variant: str, patch: int, channels: int = 3) -> int:
  """Number of parameters of `encoder` with fixed positions, in closed form;
  for tests against published counts."""
  width, depth, _, ratio = shape_of(variant)
  hidden = round(width * ratio)
  block = 4 * width * width + 4 * width + 2 * width * hidden + hidden + width + 4 * width
  return int(np.int64(patch * patch * channels + 1) * width + depth * block + 2 * width)
