"""W-MSE (Ermolov et al., 2020, arXiv 2007.06346): views agree after their embeddings are whitened.

  z_v = projector(encoder(view_v));  sub-batches of one shared permutation, each whitened, then of length one
  L   = mean over pairs of views and draws of (2 - 2 cos(white(z_v), white(z_w)))
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import views as view_recipes
from jepa.losses import prediction, redundancy
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "W-MSE", "arXiv 2007.06346", "non-contrastive"
PREVENTS = "whitening over sub-batches"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, size: int = 128, iterations: int = 1,
         eps: float = 0.0, none: bool = False, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """W-MSE.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two or more of one
      size. size: of a sub-batch, larger than the embedding. iterations: draws of sub-batches a step.
    eps: share of the identity in the covariance. none: no whitening: squared distance.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    k_views, k_parts = jax.random.split(key)
    out, extra = tower.apply(params, extra, recipe(k_views, batch["image"]))
    z = out["projector"]
    if size <= z.shape[2] and not eps:
      raise ValueError(f"config.args.size = {size} does not exceed the embedding's width {z.shape[2]}, "
                       "so that its covariance has no inverse: "
                       "choose a larger size, a narrower projector, or eps > 0")
    if z.shape[1] % size:
      raise ValueError(f"config.args.size = {size}: the batch of {z.shape[1]} does not split into such "
                       f"sub-batches; choose a batch that is a multiple of {size}, or another size")
    value = (redundancy.invariance(z) if none
             else redundancy.w_mse(z, k_parts, size=size, iterations=iterations, eps=eps))
    return value, (extra, {"agree": redundancy.invariance(z), "spread": prediction.spread(z)})

  return towers.method(tower, loss)
