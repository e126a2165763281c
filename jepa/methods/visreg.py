"""VISReg (2026, arXiv 2606.02572): views agree; means, deviations and the shape of the embeddings are those
of an isotropic Gaussian.

  z_v = projector(encoder(view_v))                                          V views, [V B D]
  L   = (1 - l) mean_v |z_v - mean of the global z|^2
        + l mean_v ( mean mu^2 + mean (std - 1)^2 + SW2(standardised z_v, N(0, I)) )

SW2: squared Wasserstein distance along random directions, of sorted values from the normal's quantiles; the
deviation that standardises is held still in it.
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import prediction, redundancy
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "VISReg", "arXiv 2606.02572", "non-contrastive"
PREVENTS = "means, deviations and sliced quantiles of a Gaussian"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, weight: float = 0.9, slices: int = 256,
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """VISReg.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make.
    weight: l. slices: random directions. none: the first term only.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    k_views, k_slices = jax.random.split(key)
    groups = recipe(k_views, batch["image"])
    out, extra = tower.apply(params, extra, groups)
    z = out["projector"]
    agree = jnp.square(z - z[: len(groups[0])].mean(0)).mean()
    place, scale, shape = (t.mean() for t in jax.vmap(
        lambda v: redundancy.gaussian_shape(v, k_slices, slices=slices))(z))
    value = agree if none else (1 - weight) * agree + weight * (place + scale + shape)
    return value, (extra, {"agree": agree, "place": place, "scale": scale, "shape": shape,
                           "spread": prediction.spread(z)})

  return towers.method(tower, loss)
