"""DINO (Caron et al., 2021, arXiv 2104.14294): predict a slowly moving teacher's soft cluster of a global
view from every other view.

  s_v = cosines of projector(encoder(view_v)) and K prototypes;  t_g the same by the teacher, of global views
  p_g = stop_gradient(softmax((t_g - c) / tau_t))
  L   = mean over g and v != g of the cross-entropy of softmax(s_v / tau_s) with p_g
  c <- 0.9 c + 0.1 mean over the global batch of t;  teacher <- m teacher + (1 - m) student
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import schedules, views as view_recipes
from jepa.losses import clustering, prediction
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "DINO", "arXiv 2104.14294", "non-contrastive"
PREVENTS = "EMA teacher, centred and sharpened"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, prototypes: int = 65536,
         student_temperature: float = 0.1, teacher_temperature: Mapping = dict(value=0.04),
         ema: Mapping = dict(kind="cosine", value=0.996, end=1.0), centre_momentum: float = 0.9,
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """DINO.

  Args:
    encoder, mean, std: see towers.make. projector: of heads.mlp, up to the bottleneck. views: of views.make,
      with local views for multi-crop. prototypes: K. teacher_temperature, ema: of schedules.make.
    none: the teacher is the student, with its gradient; no centre; one temperature.
  """
  tower = towers.make(encoder=encoder, mean=mean, std=std, heads=dict(
      projector=heads.mlp(**projector), prototypes=heads.prototypes(prototypes)))
  recipe = view_recipes.make(**views)
  parts = ("encoder", "projector", "prototypes")
  sharpness = schedules.make(**teacher_temperature, steps=steps)

  def loss(params, extra, batch, key):
    groups = recipe(key, batch["image"])
    out, extra = tower.apply(params, extra, groups)
    s = out["prototypes"] / student_temperature
    if none:
      codes = jax.nn.softmax(s[: len(groups[0])])
    else:
      goal, extra = towers.of_target(tower, extra, groups[:1], parts)
      t = jax.lax.stop_gradient(goal["prototypes"])
      codes = jax.lax.stop_gradient(jax.nn.softmax((t - extra["centre"]) / extra["temperature"]))
      centre = centre_momentum * extra["centre"] + (1 - centre_momentum) * t.mean((0, 1))
      extra = extra | {"centre": centre}
    value = clustering.across_views(codes, s)
    return value, (extra, {"codes_used": clustering.perplexity(codes),
                           "spread": prediction.spread(out["projector"])})

  def more(params, extra, step):
    if step is None:
      return {"centre": jnp.zeros(prototypes), "temperature": sharpness(0)}
    return {"temperature": sharpness(step + 1)}

  if none:
    return towers.method(tower, loss)
  return towers.with_target(tower, loss, schedules.make(**ema, steps=steps), parts, embed_target=True,
                            more=more)
