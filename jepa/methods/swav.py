"""SwAV (Caron et al., 2020, arXiv 2006.09882): predict the cluster code of one view from another; codes use
all prototypes alike.

  s_v = cosines of projector(encoder(view_v)) and the prototypes                    [B K]
  q_g = stop_gradient(Sinkhorn(s_g / epsilon)) of the global views, over the global batch
  L   = mean over g and v != g of the cross-entropy of softmax(s_v / t) with q_g
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import views as view_recipes
from jepa.losses import clustering, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "SwAV", "arXiv 2006.09882", "non-contrastive"
PREVENTS = "equal use of prototypes (Sinkhorn)"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, prototypes: int = 3000,
         epsilon: float = 0.05, temperature: float = 0.1, iterations: int = 3, none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """SwAV.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make; with local views it is
      the paper's multi-crop. prototypes: K, at most the batch. epsilon, iterations: of
      losses.clustering.sinkhorn. temperature: t. none: codes are softmax(s_g / t), with their gradient.

  Prototypes are frozen at first by an optimizer group, dict(match="prototypes", start="1 epoch").
  """
  del steps
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(
      projector=heads.mlp(**projector), prototypes=heads.prototypes(prototypes)))
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    groups = recipe(key, batch["image"])
    out, extra = tower.apply(params, extra, groups)
    s = out["prototypes"]
    if prototypes > s.shape[1]:
      raise ValueError(f"config.args.prototypes = {prototypes} exceeds the batch of {s.shape[1]}, which "
                       "cannot use them alike: choose fewer prototypes or a larger batch")
    scores = s[: len(groups[0])]
    if none:
      codes = jax.nn.softmax(scores / temperature)
    else:
      codes = jax.lax.stop_gradient(jax.vmap(
          lambda x: clustering.sinkhorn(x, epsilon=epsilon, iterations=iterations))(scores))
    value = clustering.across_views(codes, s / temperature)
    return value, (extra, {"codes_used": clustering.perplexity(codes),
                           "spread": prediction.spread(out["projector"])})

  return towers.method(tower, loss)
