"""BYOL (Grill et al., 2020, arXiv 2006.07733): predict the projection of one view, by a slowly moving
encoder, from the other view.

  q_v = predictor(projector(encoder(view_v))),   z_v = stop_gradient(target(view_v))             [B D]
  L   = mean (2 - 2 cos(q_1, z_2))  +  mean (2 - 2 cos(q_2, z_1))
  target <- m target + (1 - m) online
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import schedules, views as view_recipes
from jepa.losses import prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "BYOL", "arXiv 2006.07733", "non-contrastive"
PREVENTS = "EMA target with stop-gradient, and a predictor"


def make(*, encoder: Mapping, projector: Mapping, predictor: Mapping, views: Mapping,
         ema: Mapping = dict(kind="cosine", value=0.99, end=1.0), none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """BYOL.

  Args:
    encoder, mean, std: see towers.make. projector, predictor: of heads.mlp. views: of views.make, two of one
      size. ema: of schedules.make.
    none: the target is the online network, with its gradient.
  """
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(
      projector=heads.mlp(**projector), predictor=heads.mlp(**predictor)))
  recipe = view_recipes.make(**views)
  parts = ("encoder", "projector")

  def loss(params, extra, batch, key):
    groups = recipe(key, batch["image"])
    out, extra = tower.apply(params, extra, groups)
    q, z = out["predictor"], out["projector"]
    if not none:
      goal, extra = towers.of_target(tower, extra, groups, parts)
      z = jax.lax.stop_gradient(goal["projector"])
    value = prediction.normalised_mse(q[0], z[1]) + prediction.normalised_mse(q[1], z[0])
    return value, (extra, {"agree": value / 2, "spread": prediction.spread(out["projector"])})

  if none:
    return towers.method(tower, loss)
  return towers.with_target(tower, loss, schedules.make(**ema, steps=steps), parts)
