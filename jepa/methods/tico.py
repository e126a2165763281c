"""TiCo (Zhu et al., 2022, arXiv 2206.10698): views agree, and embeddings avoid the directions that others
have taken, as a running second moment remembers them.

  z = projector(encoder(view_1)),  z' = stop_gradient(target(view_2)),  both of length one     [B D]
  C <- beta stop_gradient(C) + (1 - beta) z^T z / B                                            [D D]
  L = mean_i (1 - z_i . z'_i)  +  rho mean_i z_i^T C z_i
  target <- m target + (1 - m) online
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import schedules, views as view_recipes
from jepa.losses import prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "TiCo", "arXiv 2206.10698", "non-contrastive"
PREVENTS = "a running second moment is avoided"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, beta: float = 0.9, rho: float = 20.0,
         ema: Mapping = dict(kind="cosine", value=0.99, end=1.0), none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """TiCo.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    beta: how much of the second moment stays. rho: weight of avoiding it. ema: of schedules.make.
    none: agreement alone, with the online network as its own target.
  """
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(projector=heads.mlp(**projector)))
  recipe = view_recipes.make(**views)
  parts, width = ("encoder", "projector"), projector["widths"][-1] if projector.get("widths") else 0
  if not (width or none):
    raise ValueError("config.args.projector.widths is empty: the second moment is of what leaves the "
                     "projector, so it needs one width at least, as in (256,)")

  def loss(params, extra, batch, key):
    group = recipe(key, batch["image"])[0]
    out, extra = tower.apply(params, extra, (group if none else group[:1],))
    z = prediction.unit(out["projector"])
    if none:
      agree = 1 - (z[0] * z[1]).sum(-1).mean()
      return agree, (extra, {"agree": agree, "spread": prediction.spread(out["projector"])})
    goal, extra = towers.of_target(tower, extra, (group[1:2],), parts)
    z, goal = z[0], jax.lax.stop_gradient(prediction.unit(goal["projector"][0]))
    product = lambda a, b: jnp.matmul(a, b, precision="float32")
    moment = beta * jax.lax.stop_gradient(extra["moment"]) + (1 - beta) * product(z.T, z) / len(z)
    agree, taken = 1 - (z * goal).sum(-1).mean(), (product(z, moment) * z).sum(-1).mean()
    extra = extra | {"moment": jax.lax.stop_gradient(moment)}
    return agree + rho * taken, (extra, {"agree": agree, "taken": taken,
                                         "spread": prediction.spread(out["projector"])})

  def more(params, extra, step):
    return {"moment": jnp.zeros((width, width))} if step is None else {}

  if none:
    return towers.method(tower, loss)
  return towers.with_target(tower, loss, schedules.make(**ema, steps=steps), parts, more=more)
