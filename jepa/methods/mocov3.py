"""MoCo v3 (Chen, Xie and He, 2021, arXiv 2104.02057): a query finds the key of its image among the keys of
the batch, made by a slowly moving encoder.

  q_v = predictor(projector(encoder(view_v))),  k_v = stop_gradient(target(view_v)),  of length one  [B D]
  ctr(q, k) = 2 t mean_i -log( exp(q_i . k_i / t) / sum_j exp(q_i . k_j / t) )
  L   = ctr(q_1, k_2) + ctr(q_2, k_1)
  target <- m target + (1 - m) online
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import schedules, views as view_recipes
from jepa.losses import contrastive, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "MoCo v3", "arXiv 2104.02057", "contrastive"
PREVENTS = "negatives: the batch's keys of an EMA encoder"


def make(*, encoder: Mapping, projector: Mapping, predictor: Mapping, views: Mapping,
         temperature: float = 0.2, ema: Mapping = dict(kind="cosine", value=0.99, end=1.0),
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """MoCo v3.

  Args:
    encoder, mean, std: see towers.make. projector, predictor: of heads.mlp. views: of views.make, two of one
      size. temperature: t. ema: of schedules.make.
    none: no negatives and no target: 2 - 2 cos of the predictor and the other view's projection.

  The published frozen patch projection is an optimizer group, dict(match="encoder/patch", lr=0.0).
  """
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(
      projector=heads.mlp(**projector), predictor=heads.mlp(**predictor)))
  recipe = view_recipes.make(**views)
  parts = ("encoder", "projector")

  def loss(params, extra, batch, key):
    groups = recipe(key, batch["image"])
    out, extra = tower.apply(params, extra, groups)
    q, k = out["predictor"], out["projector"]
    if not none:
      goal, extra = towers.of_target(tower, extra, groups, parts)
      k = jax.lax.stop_gradient(goal["projector"])
    agree = (prediction.normalised_mse(q[0], k[1]) + prediction.normalised_mse(q[1], k[0])) / 2
    ctr = lambda q, k: 2 * temperature * contrastive.info_nce(q, k, temperature=temperature)
    value = agree if none else ctr(q[0], k[1]) + ctr(q[1], k[0])
    return value, (extra, {"agree": agree, "spread": prediction.spread(out["projector"])})

  if none:
    return towers.method(tower, loss)
  return towers.with_target(tower, loss, schedules.make(**ema, steps=steps), parts)
