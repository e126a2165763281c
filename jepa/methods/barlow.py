"""Barlow Twins (Zbontar et al., 2021, arXiv 2103.03230): the cross-correlation of two views' embeddings is
the identity.

  z_v = projector(encoder(view_v)),  C_ij = correlation over the batch of z_1 channel i and z_2 channel j
  L   = scale * ( sum_i (1 - C_ii)^2  +  lambda sum_{i != j} C_ij^2 )
"""
from collections.abc import Mapping, Sequence

from jepa import views as view_recipes
from jepa.losses import prediction, redundancy
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "Barlow Twins", "arXiv 2103.03230", "non-contrastive"
PREVENTS = "channels normalised over the batch and decorrelated"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, off_diagonal: float = 0.0051,
         scale: float = 1.0, none: bool = False, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """Barlow Twins.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    off_diagonal: lambda. scale: of the loss. none: neither normalised nor decorrelated: squared distance.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    z = out["projector"]
    on, off = redundancy.barlow_twins(z[0], z[1], off_diagonal=off_diagonal)
    value = redundancy.invariance(z) if none else scale * (on + off)
    return value, (extra, {"on_diagonal": on, "off_diagonal": off, "spread": prediction.spread(z)})

  return towers.method(tower, loss)
