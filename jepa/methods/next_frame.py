"""Prediction of the next frames' pixels, with the encoder and predictor of PLDM (arXiv 2502.14819) and no
loss on latent states: the foil that says what predicting pixels does.

  z_t  = encoder(o_t),  z^_1 = z_1,  z^_t+1 = predictor(z^_t, a_t)                         [B T D]
  L    = mean_t>1 |decoder(z^_t) - o_t|^2  +  w |decoder(z_1) - o_1|^2
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views
from jepa.methods import pldm
from jepa.models import backbone, dynamics, pixels
from jepa.types import Features, Method

NAME, PAPER, FAMILY = "Next frame", "after arXiv 2502.14819", "world model"
PREVENTS = "nothing to prevent: pixels are given"

world_model = pldm.world_model      # the same latent states, distance and planning


def make(*, encoder: Mapping, predictor: Mapping, decoder: Mapping, first: float = 1.0,
         mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0, steps: int) -> Method:
  """Next-frame prediction. Batches hold "image" uint8 [B T H W C] and "action" f32 [B T-1 A].

  Args:
    encoder: of backbone.vector. predictor: of dynamics.make.
    decoder: of pixels.convolutional without the shape.
    first: w, of the frame that is seen: one decoder for encoded and imagined states, whose distance planning
      takes.
    mean, std: of pixels in [0, 1], by channel; errors are of standardised pixels.
  """
  del steps
  enc, pred = backbone.vector(**encoder), dynamics.make(**predictor)
  model = world_model(encoder=encoder, predictor=predictor, mean=mean, std=std)
  prepare = lambda image: views.standardise(image, mean, std)
  decode = lambda image: pixels.convolutional(shape=image.shape[-3:], **decoder)

  def init(key, batch):
    k_enc, k_pred, k_dec = jax.random.split(key, 3)
    x = prepare(batch["image"][:, 0])
    params = {"encoder": enc.init(k_enc, x)}
    z = enc.apply(params["encoder"], x)
    params["predictor"] = pred.init(k_pred, z, batch["action"][:, 0])
    return params | {"decoder": decode(x).init(k_dec, z)}, {}

  def loss(params, extra, batch, key):
    x, a = prepare(batch["image"]), batch["action"].astype(jnp.float32)
    z = enc.apply(params["encoder"], x[:, 0])
    z = jnp.concatenate([z[:, None], pldm.rollout(model, params, extra, z, a)], 1)
    drawn = decode(x).apply(params["decoder"], z.reshape(-1, z.shape[-1])).reshape(x.shape)
    seen, ahead = jnp.square(drawn[:, 0] - x[:, 0]).mean(), jnp.square(drawn[:, 1:] - x[:, 1:]).mean()
    still = jnp.square(x[:, 1:] - x[:, :1]).mean()      # the error of predicting that nothing moves
    return ahead + first * seen, (extra, {"prediction": ahead, "reconstruction": seen, "copy_first": still})

  def embed(params, extra, batch) -> Features:
    image = batch["image"]
    z = model.encode(params, extra, image.reshape(-1, *image.shape[2:])).reshape(*image.shape[:2], -1)
    return Features(z[:, 0], z)

  return Method(init, loss, lambda params, extra, step: extra, embed)
