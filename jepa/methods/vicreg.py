"""VICReg (Bardes, Ponce and LeCun, 2021, arXiv 2105.04906): views agree, each channel varies, channels do
not covary.

  z_v = expander(encoder(view_v))                                           v = 1, 2, [B D]
  L   = l mean (z_1 - z_2)^2  +  m mean_v mean_d max(0, 1 - std_d(z_v))
        + n sum_v sum_{i != j} Cov_ij(z_v)^2 / D
"""
from collections.abc import Mapping, Sequence

from jepa import views as view_recipes
from jepa.losses import prediction, redundancy
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "VICReg", "arXiv 2105.04906", "non-contrastive"
PREVENTS = "variance kept up, covariance kept down"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, invariance: float = 25.0,
         variance: float = 25.0, covariance: float = 1.0, none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """VICReg.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    invariance, variance, covariance: l, m, n. none: invariance only.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    z = out["projector"]
    agree = 4 * redundancy.invariance(z)      # of two views, the mean of (z_1 - z_2)^2
    varied = (redundancy.variance(z[0]) + redundancy.variance(z[1])) / 2
    covaried = redundancy.covariance(z[0]) + redundancy.covariance(z[1])
    value = invariance * agree + (0 if none else variance * varied + covariance * covaried)
    return value, (extra, {"agree": agree, "variance": varied, "covariance": covaried,
                           "spread": prediction.spread(z)})

  return towers.method(tower, loss)
