"""data2vec (Baevski et al., 2022, arXiv 2202.03555): at hidden patches, predict what a slowly moving teacher
of the whole image says in its last blocks.

  y = mean over the last K blocks of LayerNorm(teacher(x)), normalised       [B N D]
  L = mean over hidden patches, channels of smooth_l1(head(student(x with hidden patches)), stop_gradient(y))
  teacher <- m teacher + (1 - m) student
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jepa import masks, schedules, views as view_recipes
from jepa.losses import prediction
from jepa.models import backbone, heads, vit
from jepa.types import Method

NAME, PAPER, FAMILY = "data2vec", "arXiv 2202.03555", "masked latent"
PREVENTS = "EMA teacher with normalised targets"


def make(*, encoder: Mapping, views: Mapping, share: Sequence[float] = (0.6, 0.6), layers: int = 6,
         beta: float = 2.0, ema: Mapping = dict(kind="linear", value=0.999, end=0.9998),
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """data2vec.

  Args:
    encoder: of vit.encoder. views: of views.make, one. share: range of hidden patches (120 of 196 published).
    layers: K. beta: of smooth L1. ema: of schedules.make.
    none: the teacher is the student, with its gradient, and targets are not normalised.
  """
  args = backbone.vit_args(encoder, "data2vec hides patches")
  enc, patch = vit.encoder(**args, mask_token=True), args.get("patch", 16)
  head = heads.linear(vit.width_of(args))
  recipe = view_recipes.make(**views)
  momentum = schedules.make(**ema, steps=steps)
  prepare = lambda image: view_recipes.standardise(image, mean, std)
  patches_of = lambda tokens: tokens[..., 1:, :] if args.get("cls", False) else tokens

  def init(key, batch):
    k_enc, k_head = jax.random.split(key)
    x = prepare(batch["image"])
    params = {"encoder": enc.init(k_enc, x)}
    params["head"] = head.init(k_head, enc.apply(params["encoder"], x))
    return params, {} if none else {"target": jax.tree.map(jnp.copy, params["encoder"])}

  def loss(params, extra, batch, key):
    k_view, k_masks = jax.random.split(key)
    x = prepare(recipe(k_view, batch["image"])[0][0])
    hidden = masks.hide(k_masks, len(x), vit.grid_of(x, patch), share=share)
    if none:
      y = patches_of(enc.apply(params["encoder"], x, None, layers)).mean(0)
    else:
      last = patches_of(enc.apply(extra["target"], x, None, layers))
      y = jax.lax.stop_gradient(prediction.layer_norm(prediction.layer_norm(last).mean(0)))
    guess = patches_of(head.apply(params["head"], enc.apply(params["encoder"], x, None, 0, hidden)))
    value = prediction.smooth_l1(guess, y, hidden, beta=beta)
    position, image = prediction.shares(y)
    return value, (extra, {"target_std": y.std(0).mean(), "position_share": position, "image_share": image,
                           "spread": prediction.spread(y.mean(1)[None])})

  def post(params, extra, step):
    if none:
      return extra
    return {"target": optax.incremental_update(params["encoder"], extra["target"], 1 - momentum(step))}

  def embed(params, extra, batch):
    tokens = enc.apply(params["encoder"] if none else extra["target"], prepare(batch["image"]))
    return backbone.of_vit(tokens, args.get("cls", False))

  return Method(init, loss, post, embed)
