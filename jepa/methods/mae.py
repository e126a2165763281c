"""MAE (He et al., 2021, arXiv 2111.06377): the pixels of most patches from a few of them.

  z  = encoder(visible patches)                                  a quarter of the grid, [B K D]
  x^ = decoder(z, mask tokens at the hidden places)              [B N-K P]
  L  = mean over hidden patches, pixels of (x^ - normalised patch)^2
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import masks, views as view_recipes
from jepa.losses import reconstruction
from jepa.models import backbone, vit
from jepa.types import Method, Tokens

NAME, PAPER, FAMILY = "MAE", "arXiv 2111.06377", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, decoder: Mapping, views: Mapping, hidden: float = 0.75,
         normalised: bool = True, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """MAE.

  Args:
    encoder: of vit.encoder. decoder: of vit.predictor. views: of views.make, one.
    hidden: share of hidden patches. normalised: each patch's pixels by its own mean and deviation.
  """
  del steps
  args = backbone.vit_args(encoder, "MAE drops patches")
  patch, cls = args.get("patch", 16), args.get("cls", False)
  enc = vit.encoder(**args)
  decode = lambda channels: vit.predictor(
      inputs=vit.width_of(args), outputs=patch * patch * channels, joint=True, **decoder)
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_dec = jax.random.split(key)
    return {"encoder": enc.init(k_enc, prepare(batch["image"])),
            "decoder": decode(batch["image"].shape[-1]).init(k_dec)}, {}

  def loss(params, extra, batch, key):
    k_view, k_masks = jax.random.split(key)
    x = prepare(recipe(k_view, batch["image"])[0][0])
    grid = vit.grid_of(x, patch)
    n = grid[0] * grid[1]
    visible, gone = masks.split(k_masks, len(x), n, max(1, round(n * (1 - hidden))))
    z = enc.apply(params["encoder"], x, visible)
    if cls:     # the decoder fills places from places
      z = z[:, 1:]
    block = Tokens(*(t[:, None] for t in gone))
    guess = decode(x.shape[-1]).apply(params["decoder"], z, visible, block, grid)[:, 0]
    goal = masks.gather(vit.patches(x, patch), gone)
    goal = reconstruction.normalise_patches(goal) if normalised else goal
    value = reconstruction.squared(guess, goal).mean()
    return value, (extra, {"explained": 1 - value / goal.var()})

  def embed(params, extra, batch):
    return backbone.of_vit(enc.apply(params["encoder"], prepare(batch["image"])), cls)

  return Method(init, loss, lambda params, extra, step: extra, embed)
