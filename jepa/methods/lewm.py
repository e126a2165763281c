"""LeWorldModel (Maes et al., 2026, arXiv 2603.19312): a world model from pixels with two terms. No teacher,
no stop-gradient.

  z_t   = projector(encoder(o_t))                                                          [B T D]
  z^_t+1 = out(predictor(z_1..t, a_1..t)), causal over a short history
  L     = mean |z^_t+1 - z_t+1|^2  +  lambda mean_t SIGReg({z_t} over the batch)
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa import views
from jepa.losses import sigreg as sigreg_loss
from jepa.models import backbone, dynamics, heads
from jepa.types import Features, Method, WorldModel

NAME, PAPER, FAMILY = "LeWM", "arXiv 2603.19312", "world model"
PREVENTS = "SIGReg: sketched isotropic Gaussian"


class History(NamedTuple):
  """What the predictor remembers; the last action is yet to be taken."""

  z: jax.Array                      # [B T D], newest last
  action: jax.Array                 # [B T-1 A]


def make(*, encoder: Mapping, projector: Mapping, predictor: Mapping, weight: float = 0.09,
         slices: int = 1024, quadrature: str = "released", mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, none: bool = False, steps: int) -> Method:
  """LeWM. Batches hold "image" uint8 [B T+1 H W C] and "action" f32 [B T A], T the predictor's history.

  Args:
    encoder: of backbone.make. projector: of heads.mlp; its last width is D, and the head above the
      predictor has its shape. predictor: of dynamics.transformer without the width. weight: lambda. slices,
      quadrature: see losses.sigreg. none: no SIGReg.
    mean, std: of pixels in [0, 1], by channel.
  """
  del steps
  enc, proj, pred = _parts(encoder, projector, predictor)
  width = projector["widths"][-1]
  prepare = lambda image: views.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_proj, k_pred, k_out = jax.random.split(key, 4)
    x = prepare(batch["image"][:, 0])
    p_enc, s_enc = enc.init(k_enc, x)
    p_proj, s_proj = proj.init(k_proj, enc.apply(p_enc, s_enc, x, train=False)[0].pooled)
    z = jnp.zeros((len(x), 1, width))
    p_out, s_out = proj.init(k_out, z[:, 0])
    params = {"encoder": p_enc, "projector": p_proj, "out": p_out,
              "predictor": pred.init(k_pred, z, batch["action"][:, :1])}
    return params, {"encoder": s_enc, "projector": s_proj, "out": s_out}

  def states(params, extra, image, train):
    """Every frame by itself, [B T H W C] -> [B T D]; batch statistics over all of them."""
    f, s_enc = enc.apply(params["encoder"], extra["encoder"], prepare(image.reshape(-1, *image.shape[2:])),
                         train=train)
    z, s_proj = proj.apply(params["projector"], extra["projector"], f.pooled, train=train)
    return z.reshape(*image.shape[:2], -1), {"encoder": s_enc, "projector": s_proj}

  def loss(params, extra, batch, key):
    z, stats = states(params, extra, batch["image"], True)
    h = pred.apply(params["predictor"], z[:, :-1], batch["action"].astype(jnp.float32))
    ahead, s_out = proj.apply(params["out"], extra["out"], h.reshape(-1, width), train=True)
    error = jnp.square(ahead.reshape(h.shape) - z[:, 1:]).mean()
    gaussian = jax.vmap(lambda z_BD: sigreg_loss.sigreg(z_BD, key, slices=slices, rule=quadrature),
                        in_axes=1)(z).mean()
    still = jnp.square(z[:, 1:] - z[:, :-1]).mean()     # the error of predicting that nothing moves
    value = error if none else error + weight * gaussian
    return value, (stats | {"out": s_out}, {"prediction": error, "sigreg": gaussian, "copy_last": still,
                                            "embedding_std": z.std(0).mean()})

  def embed(params, extra, batch) -> Features:
    z, _ = states(params, extra, batch["image"], False)
    return Features(z[:, 0], z)

  return Method(init, loss, lambda params, extra, step: extra, embed)


def world_model(*, encoder: Mapping, projector: Mapping, predictor: Mapping,
                mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25) -> WorldModel:
  """What planning sees; arguments as of `make`. A latent state is a `History`, which begins as if the world
  had stood still."""
  enc, proj, pred = _parts(encoder, projector, predictor)
  length = predictor.get("history", 3)

  def encode(params, extra, image):
    x = views.standardise(image, mean, std)
    f, _ = enc.apply(params["encoder"], extra["encoder"], x, train=False)
    z, _ = proj.apply(params["projector"], extra["projector"], f.pooled, train=False)
    actions = params["predictor"]["action"]["kernel"].shape[0]
    return History(jnp.repeat(z[:, None], length, 1), jnp.zeros((len(z), length - 1, actions)))

  def predict(params, extra, state, action):
    a = jnp.concatenate([state.action, action[:, None]], 1)
    h = pred.apply(params["predictor"], state.z, a)[:, -1]
    z, _ = proj.apply(params["out"], extra["out"], h, train=False)
    return History(jnp.concatenate([state.z[:, 1:], z[:, None]], 1), a[:, 1:])

  return WorldModel(encode, predict, lambda state, goal: jnp.square(state.z[:, -1] - goal.z[:, -1]).sum(-1))


def _parts(encoder: Mapping, projector: Mapping, predictor: Mapping):
  return (backbone.make(**encoder), heads.mlp(**projector),
          dynamics.transformer(width=projector["widths"][-1], **predictor))
