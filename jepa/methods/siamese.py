"""Siamese networks (Bromley et al., 1993; contrastive loss of Hadsell, Chopra and LeCun, CVPR 2006): two
views of an image come close, those of different images are pushed out of a margin.

  z_v = projector(encoder(view_v))                                         v = 1, 2, [B D]
  L   = mean_i |z_1i - z_2i|^2 / 2  +  mean_{i != j} max(0, m - |z_1i - z_2j|)^2 / 2
"""
from collections.abc import Mapping, Sequence

from jepa import views as view_recipes
from jepa.losses import contrastive, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "Siamese, margin", "CVPR 2006", "contrastive"
PREVENTS = "negatives pushed out of a margin"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, margin: float = 1.0, none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """Siamese networks.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    margin: in units of the embedding. none: no negatives.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    z = out["projector"]
    attraction, repulsion = contrastive.margin(z[0], z[1], margin=margin)
    value = attraction if none else attraction + repulsion
    return value, (extra, {"attraction": attraction, "repulsion": repulsion, "spread": prediction.spread(z)})

  return towers.method(tower, loss)
