"""LeJEPA (Balestriero & LeCun, 2025, arXiv 2511.08544): views agree, and embeddings are an isotropic
Gaussian. No teacher.

  z_v = projector(encoder(view_v))        V views, [V B D]
  mu  = mean of z_v over the global views
  L   = (1 - lambda) * mean_v |z_v - mu|^2  +  lambda * mean_v SIGReg(z_v)
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import sigreg as sigreg_loss
from jepa.models import backbone, heads
from jepa.types import Features, Method

NAME, PAPER, FAMILY = "LeJEPA", "arXiv 2511.08544", "non-contrastive"
PREVENTS = "SIGReg: sketched isotropic Gaussian"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, weight: float = 0.05, slices: int = 1024,
         quadrature: str = "released", none: bool = False, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """LeJEPA.

  Args:
    encoder: keyword arguments of backbone.make. projector: of heads.mlp. views: of views.make.
    weight: lambda, the share of SIGReg in the loss. slices, quadrature: see losses.sigreg.
    none: no SIGReg.
    mean, std: of pixels in [0, 1], by channel.
  """
  del steps
  enc, proj = backbone.make(**encoder), heads.mlp(**projector)
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_proj = jax.random.split(key)
    x = prepare(batch["image"])
    p_enc, s_enc = enc.init(k_enc, x)
    features, _ = enc.apply(p_enc, s_enc, x, train=False)
    p_proj, s_proj = proj.init(k_proj, features.pooled)
    return {"encoder": p_enc, "projector": p_proj}, {"encoder": s_enc, "projector": s_proj}

  def loss(params, extra, batch, key):
    k_views, k_slices = jax.random.split(key)
    s_enc, s_proj = extra["encoder"], extra["projector"]
    z, count = [], []
    # the global views, then local ones of another size
    for group in recipe(k_views, batch["image"]):
      v, b = group.shape[:2]
      x = view_recipes.standardise(group, mean, std).reshape(v * b, *group.shape[2:])
      features, s_enc = enc.apply(params["encoder"], s_enc, x, train=True)
      out, s_proj = proj.apply(params["projector"], s_proj, features.pooled, train=True)
      z.append(out.reshape(v, b, -1))
      count.append(v)
    z_VBD = jnp.concatenate(z)
    centre = z_VBD[: count[0]].mean(0)
    agree = jnp.square(z_VBD - centre).sum(-1).mean() / z_VBD.shape[-1]
    gaussian = jax.vmap(lambda z_BD: sigreg_loss.sigreg(z_BD, k_slices, slices=slices,
                                                        rule=quadrature))(z_VBD).mean()
    value = agree if none else (1 - weight) * agree + weight * gaussian
    metrics = {"agree": agree, "sigreg": gaussian, "embedding_std": z_VBD.std(1).mean()}
    return value, ({"encoder": s_enc, "projector": s_proj}, metrics)

  def embed(params, extra, batch) -> Features:
    return enc.apply(params["encoder"], extra["encoder"], prepare(batch["image"]), train=False)[0]

  return Method(init, loss, lambda params, extra, step: extra, embed)
