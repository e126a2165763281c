"""SimSiam (Chen and He, 2020, arXiv 2011.10566): predict the projection of one view from the other, by the
same encoder, with a stop-gradient.

  z_v = projector(encoder(view_v)),   p_v = predictor(z_v)                                       [B D]
  L   = - mean cos(p_1, stop_gradient(z_2)) / 2  -  mean cos(p_2, stop_gradient(z_1)) / 2
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import views as view_recipes
from jepa.losses import prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "SimSiam", "arXiv 2011.10566", "non-contrastive"
PREVENTS = "stop-gradient and a predictor"


def make(*, encoder: Mapping, projector: Mapping, predictor: Mapping, views: Mapping, none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """SimSiam.

  Args:
    encoder, mean, std: see towers.make. projector, predictor: of heads.mlp. views: of views.make, two of one
      size. none: no stop-gradient.
  """
  del steps
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(
      projector=heads.mlp(**projector), predictor=heads.mlp(**predictor)))
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    p = out["predictor"]
    z = out["projector"] if none else jax.lax.stop_gradient(out["projector"])
    agree = (prediction.normalised_mse(p[0], z[1]) + prediction.normalised_mse(p[1], z[0])) / 2
    return agree / 2 - 1, (extra, {"agree": agree, "spread": prediction.spread(z)})     # 2 - 2 cos -> -cos

  return towers.method(tower, loss)
