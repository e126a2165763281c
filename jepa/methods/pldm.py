"""PLDM (Sobal et al., 2025, arXiv 2502.14819): a world model whose latent states are kept from collapse by
VICReg, made smooth in time, and made to tell the action.

  z_t   = encoder(o_t),  z^_1 = z_1,  z^_t+1 = predictor(z^_t, a_t)                        [B T D]
  L     = a mean |z^_t - z_t|^2  +  b variance(z_1)  +  c covariance(z_1)
          + d mean |z_t+1 - z_t|^2  +  e variance over time  +  f mean |h(z_t, z_t+1) - a_t|^2
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views
from jepa.losses import dynamics as losses, redundancy
from jepa.models import backbone, dynamics, heads
from jepa.types import Features, Method, WorldModel

NAME, PAPER, FAMILY = "PLDM", "arXiv 2502.14819", "world model"
PREVENTS = "variance kept up, covariance kept down, inverse dynamics"


def make(*, encoder: Mapping, predictor: Mapping, prediction: float = 1.0, variance: float = 4.0,
         covariance: float = 7.0, smoothness: float = 0.75, temporal_variance: float = 0.25,
         inverse: float = 1.0, margin: float = 1.0, mean: float | Sequence[float] = 0.0,
         std: float | Sequence[float] = 1.0, frozen: bool = False, disagreement: float = 0.0,
         steps: int) -> Method:
  """PLDM. Batches hold "image" uint8 [B T H W C] and "action" f32 [B T-1 A].

  Args:
    encoder: of backbone.vector. predictor: of dynamics.make. prediction, variance, covariance, smoothness,
      temporal_variance, inverse: weights a ... f; 0 switches a term off.
    margin: least standard deviation. mean, std: of pixels in [0, 1], by channel.
    frozen: the encoder lives in `extra`, another run's by config.init.encoder, and only the predictor
      learns, from more trajectories a second.
    disagreement: see world_model.
  """
  del steps, disagreement
  enc, pred = backbone.vector(**encoder), dynamics.make(**predictor)
  model = world_model(encoder=encoder, predictor=predictor, mean=mean, std=std, frozen=frozen)
  each = for_members(predictor)

  def init(key, batch):
    k_enc, k_pred, k_inv = jax.random.split(key, 3)
    z = jnp.zeros((1, encoder.get("outputs", 512)))
    a = batch["action"][:1, 0]
    params = {"encoder": enc.init(k_enc, jnp.zeros((1, *batch["image"].shape[2:]))),
              "predictor": pred.init(k_pred, each(z), a)}
    if inverse:
      params["inverse"] = heads.linear(a.shape[-1]).init(k_inv, jnp.concatenate([z, z], -1))
    return params, {"encoder": params.pop("encoder")} if frozen else {}

  def states(params, extra, image):
    """Every frame by itself: [B T H W C] -> [B T D]."""
    z = encoded(enc, extra if frozen else params, image.reshape(-1, *image.shape[2:]), mean, std)
    return z.reshape(*image.shape[:2], -1)

  def loss(params, extra, batch, key):
    z, a = states(params, extra, batch["image"]), batch["action"].astype(jnp.float32)
    imagined = rollout(model, params, extra, each(z[:, 0]), a)                       # [B T-1 (M) D]
    terms = {"prediction": (prediction, losses.rollout_error(imagined, jax.vmap(each, 1, 1)(z))),
             "variance": (variance, redundancy.variance(z[:, 0], margin=margin)),
             "covariance": (covariance, losses.covariance(z[:, 0])),
             "smoothness": (smoothness, losses.smoothness(z)),
             "temporal_variance": (temporal_variance, losses.temporal_variance(z, margin=margin))}
    if inverse:
      told = heads.linear(a.shape[-1]).apply(params["inverse"], jnp.concatenate([z[:, :-1], z[:, 1:]], -1))
      terms["inverse"] = inverse, jnp.square(told - a).mean()
    still = jnp.square(z[:, 1:] - z[:, :1]).mean()      # the error of predicting that nothing moves
    metrics = {k: v for k, (_, v) in terms.items()}
    return sum(w * v for w, v in terms.values()), (extra, metrics | {"copy_first": still})

  def embed(params, extra, batch) -> Features:
    z = states(params, extra, batch["image"])
    return Features(z[:, 0], z)

  return Method(init, loss, lambda params, extra, step: extra, embed)


def encoded(enc, params, image, mean, std):
  """The state of each image by itself, [B D]."""
  return enc.apply(params["encoder"], views.standardise(image, mean, std))


def for_members(predictor: Mapping):
  """z [B D] -> what the predictor takes: z for each of several members, [B M D]."""
  members = predictor.get("members", 1)
  return lambda z: z if members == 1 else jnp.repeat(z[:, None], members, 1)


def world_model(*, encoder: Mapping, predictor: Mapping, mean: float | Sequence[float] = 0.0,
                std: float | Sequence[float] = 1.0, frozen: bool = False,
                disagreement: float = 0.0) -> WorldModel:
  """What planning sees; arguments as of `make`.

  Args:
    disagreement: weight of the variance between the members of the predictor in the distance to the goal,
      beside their mean distance, in which it has weight 1 already.
  """
  enc, pred, each = backbone.vector(**encoder), dynamics.make(**predictor), for_members(predictor)

  def distance(z, goal):
    far = jnp.square(z - goal).mean(-1)
    return far if z.ndim == 2 else far.mean(1) + disagreement * z.var(1).mean(-1)

  return WorldModel(
      encode=lambda params, extra, image: each(encoded(enc, extra if frozen else params, image, mean, std)),
      predict=lambda params, extra, z, action: pred.apply(params["predictor"], z, action),
      distance=distance)


def rollout(model: WorldModel, params, extra, z_BD: jax.Array, actions_BTA: jax.Array) -> jax.Array:
  """The states imagined after each action, [B T D], or [B T M D] from [B M D]."""
  def step(z, a):
    z = model.predict(params, extra, z, a)
    return z, z
  # Unrolled: on several devices the gradient of a loop has all-reduces inside, which the CPU's runtime may
  # start beside those of the loss, in another order on each device, and then waits for ever.
  return jax.lax.scan(step, z_BD, actions_BTA.swapaxes(0, 1), unroll=True)[1].swapaxes(0, 1)
