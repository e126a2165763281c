"""MoCo v2 (He et al., 2019, arXiv 1911.05722; Chen et al., 2020, arXiv 2003.04297): a query finds the key of
its image among a queue of earlier keys, made by a slowly moving encoder.

  q = projector(encoder(view_1)),  k = stop_gradient(target(view_2)),  both of length one        [B D]
  L = mean_i -log( exp(q_i . k_i / t) / (exp(q_i . k_i / t) + sum_j exp(q_i . queue_j / t)) )
  queue <- k and the queue less its oldest B;  target <- m target + (1 - m) online

BatchNorm is over the global batch, so that the shuffling of the paper has nothing to hide.
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import schedules, views as view_recipes
from jepa.losses import contrastive, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "MoCo v2", "arXiv 2003.04297", "contrastive"
PREVENTS = "negatives: a queue of keys of an EMA encoder"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, queue: int = 65536,
         temperature: float = 0.2, ema: Mapping = dict(value=0.999), none: bool = False,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """MoCo v2.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp. views: of views.make, two of one size.
    queue: keys kept, a multiple of the batch. ema: of schedules.make. none: no queue and no target.
  """
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(**projector)), mean=mean, std=std)
  recipe = view_recipes.make(**views)
  if not projector.get("widths"):
    raise ValueError("config.args.projector.widths is empty: the queue holds what leaves the projector, "
                     "so it needs one width at least, as in (128,)")
  width, parts = projector["widths"][-1], ("encoder", "projector")

  def loss(params, extra, batch, key):
    group = recipe(key, batch["image"])[0]
    out, extra = tower.apply(params, extra, (group if none else group[:1],))
    q = out["projector"][0]
    if none:
      agree = prediction.normalised_mse(q, out["projector"][1])
      return agree, (extra, {"agree": agree, "spread": prediction.spread(out["projector"])})
    if queue % len(q):
      raise ValueError(f"config.args.queue = {queue} is no multiple of the batch of {len(q)}; "
                       f"choose {max(1, round(queue / len(q))) * len(q)}")
    goal, extra = towers.of_target(tower, extra, (group[1:2],), parts)
    k = prediction.unit(jax.lax.stop_gradient(goal["projector"][0]))
    value = contrastive.info_nce(q, k, temperature=temperature,
                                 queue_QD=jax.lax.stop_gradient(extra["queue"]))
    extra = extra | {"queue": jnp.concatenate([k, extra["queue"][: queue - len(k)]])}
    return value, (extra, {"agree": prediction.normalised_mse(q, k),
                           "spread": prediction.spread(out["projector"])})

  def more(params, extra, step):
    if step is not None:
      return {}
    return {"queue": prediction.unit(jax.random.normal(jax.random.key(0), (queue, width)))}

  if none:
    return towers.method(tower, loss)
  return towers.with_target(tower, loss, schedules.make(**ema, steps=steps), parts, more=more)
