"""SimCLR (Chen et al., 2020, arXiv 2002.05709): each view finds the other view of its image among all views
of the batch.

  z_v = projector(encoder(view_v)), of length one                          v = 1, 2, [B D]
  L   = mean over 2B views i of -log( exp(z_i . z_partner / t) / sum_{j != i} exp(z_i . z_j / t) )
"""
from collections.abc import Mapping, Sequence

from jepa import views as view_recipes
from jepa.losses import contrastive, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "SimCLR", "arXiv 2002.05709", "contrastive"
PREVENTS = "negatives: the other images of the batch"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, temperature: float = 0.1,
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """SimCLR.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    temperature: t. none: no negatives (2 - 2 cos).
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    z = out["projector"]
    agree = prediction.normalised_mse(z[0], z[1])
    value = agree if none else contrastive.nt_xent(z[0], z[1], temperature=temperature)
    return value, (extra, {"agree": agree, "spread": prediction.spread(z)})

  return towers.method(tower, loss)
