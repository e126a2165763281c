"""SimMIM (Xie et al., 2021, arXiv 2111.09886): the pixels of hidden patches by one linear map.

  z = encoder(x, hidden patches replaced by a mask token)        [B N D]
  L = mean over hidden patches, pixels of |linear(z) - patch|
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import masks, views as view_recipes
from jepa.losses import prediction, reconstruction
from jepa.models import backbone, heads, vit
from jepa.types import Method

NAME, PAPER, FAMILY = "SimMIM", "arXiv 2111.09886", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, views: Mapping, hidden: float = 0.6, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """SimMIM.

  Args:
    encoder: of vit.encoder. views: of views.make, one. hidden: share of hidden patches.
  """
  del steps
  args = backbone.vit_args(encoder, "SimMIM hides patches")
  patch, cls = args.get("patch", 16), args.get("cls", False)
  enc = vit.encoder(**args, mask_token=True)
  linear = lambda channels: heads.linear(patch * patch * channels)
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_head = jax.random.split(key)
    x = prepare(batch["image"])
    params = {"encoder": enc.init(k_enc, x)}
    return params | {"head": linear(x.shape[-1]).init(k_head, enc.apply(params["encoder"], x))}, {}

  def loss(params, extra, batch, key):
    k_view, k_masks = jax.random.split(key)
    x = prepare(recipe(k_view, batch["image"])[0][0])
    gone = masks.hide(k_masks, len(x), vit.grid_of(x, patch), share=(hidden, hidden), blocks=False)
    z = backbone.of_vit(enc.apply(params["encoder"], x, None, 0, gone), cls).tokens
    error = reconstruction.absolute(linear(x.shape[-1]).apply(params["head"], z), vit.patches(x, patch))
    value = prediction.masked_mean(error, gone)
    return value, (extra, {"pixels": value})

  def embed(params, extra, batch):
    return backbone.of_vit(enc.apply(params["encoder"], prepare(batch["image"])), cls)

  return Method(init, loss, lambda params, extra, step: extra, embed)
