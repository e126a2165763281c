"""The world model of Dreamer (Hafner et al., 2023, arXiv 2301.04104), without reward and actor: pixels are
reconstructed from a state that the past must be able to guess. A foil of prediction in latent space.

  z_t ~ q(z | encoder(o_t)),   h_t = GRU(h_t-1, z_t-1, a_t-1),  h_1 = 0;   the prior is p(z | h_t)
  o^_t  = decoder(h_t, z_t)
  L     = mean_t |o^_t - o_t|^2 / (2 s^2)
          + (b max(f, KL(sg q || p)) + c max(f, KL(q || sg p))) / pixels

The published posterior also reads h_t. Here it reads the frame alone, so that a goal, which has a picture
and no past, has the code that a state imagined there would have.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepa import views
from jepa.models import backbone, pixels, rssm
from jepa.types import Features, Method, WorldModel

NAME, PAPER, FAMILY = "Dreamer's world model", "arXiv 2301.04104", "world model"
PREVENTS = "nothing to prevent: pixels are given"


class State(NamedTuple):
  """What imagination carries on."""

  h: jax.Array                      # [B H]
  z: jax.Array                      # [B S*C], probabilities


def make(*, encoder: Mapping, state: Mapping, decoder: Mapping, noise: float = 1.0, dynamics: float = 1.0,
         representation: float = 0.1, free: float = 1.0, mean: float | Sequence[float] = 0.0,
         std: float | Sequence[float] = 1.0, steps: int) -> Method:
  """Dreamer's world model. Batches hold "image" uint8 [B T H W C] and "action" f32 [B T-1 A].

  Args:
    encoder: of backbone.vector. state: of rssm.make. decoder: of pixels.convolutional without the shape.
    noise: s, standard deviation of a pixel given the state, in units of standardised pixels.
    dynamics, representation, free: b, c and f, nats.
    mean, std: of pixels in [0, 1], by channel.
  """
  del steps
  enc, model = backbone.vector(**encoder), rssm.make(**state)
  prepare = lambda image: views.standardise(image, mean, std)
  decode = lambda image: pixels.convolutional(shape=image.shape[-3:], **decoder)

  def init(key, batch):
    keys = jax.random.split(key, 5)
    x, a = prepare(batch["image"][:, 0]), batch["action"][:, 0]
    params = {"encoder": enc.init(keys[0], x)}
    e = enc.apply(params["encoder"], x)
    params["posterior"] = model.posterior.init(keys[1], e)
    z = rssm.mean(model.posterior.apply(params["posterior"], e))
    h = jnp.zeros((len(x), state.get("memory", 256)))
    return params | {"memory": model.memory.init(keys[2], h, z, a), "prior": model.prior.init(keys[3], h),
                     "decoder": decode(x).init(keys[4], jnp.concatenate([h, z], -1))}, {}

  def loss(params, extra, batch, key):
    # 1. What is seen, all frames at once [T B ...].
    x, a = prepare(batch["image"]).swapaxes(0, 1), batch["action"].astype(jnp.float32).swapaxes(0, 1)
    e = enc.apply(params["encoder"], x.reshape(-1, *x.shape[2:]))
    seen = model.posterior.apply(params["posterior"], e)
    seen = seen.reshape(*x.shape[:2], *seen.shape[1:])
    z = rssm.draw(key, seen)

    # 2. What the past makes of it.
    def step(h, turn):
      h = model.memory.apply(params["memory"], h, *turn)
      return h, h
    first = jnp.zeros((x.shape[1], state.get("memory", 256)))
    h = jnp.concatenate([first[None], jax.lax.scan(step, first, (z[:-1], a))[1]])
    guess = jax.vmap(lambda h: model.prior.apply(params["prior"], h))(h)

    # 3. Pixels and nats.
    both = jnp.concatenate([h, z], -1)
    drawn = decode(x).apply(params["decoder"], both.reshape(-1, both.shape[-1]))
    error = jnp.square(drawn.reshape(x.shape) - x).mean()
    sg = jax.lax.stop_gradient
    bounded = lambda p, q: jnp.maximum(free, rssm.kl(p, q)).mean()
    nats = dynamics * bounded(sg(seen), guess) + representation * bounded(seen, sg(guess))
    value = error / (2 * noise**2) + nats / x[0, 0].size
    imagined, real = rssm.mean(guess[1:]), rssm.mean(seen)
    return value, (extra, {"reconstruction": error, "kl_nats": rssm.kl(seen, guess).mean(),
                           "prediction": jnp.square(imagined - real[1:]).mean(),
                           "copy_last": jnp.square(real[1:] - real[:-1]).mean()})

  def embed(params, extra, batch) -> Features:
    image = batch["image"]
    e = enc.apply(params["encoder"], prepare(image.reshape(-1, *image.shape[2:])))
    z = rssm.mean(model.posterior.apply(params["posterior"], e)).reshape(*image.shape[:2], -1)
    return Features(z[:, 0], z)

  return Method(init, loss, lambda params, extra, step: extra, embed)


def world_model(*, encoder: Mapping, state: Mapping, mean: float | Sequence[float] = 0.0,
                std: float | Sequence[float] = 1.0) -> WorldModel:
  """What planning sees; arguments as of `make`. A step takes the prior's probabilities for the drawn state,
  so that imagination draws nothing and actions have a gradient; the distance is that of probabilities,
  since the memory of a goal is empty."""
  enc, model = backbone.vector(**encoder), rssm.make(**state)

  def encode(params, extra, image):
    e = enc.apply(params["encoder"], views.standardise(image, mean, std))
    z = rssm.mean(model.posterior.apply(params["posterior"], e))
    return State(jnp.zeros((len(z), state.get("memory", 256))), z)

  def predict(params, extra, s, action):
    h = model.memory.apply(params["memory"], s.h, s.z, action)
    return State(h, rssm.mean(model.prior.apply(params["prior"], h)))

  return WorldModel(encode, predict, lambda s, goal: jnp.square(s.z - goal.z).sum(-1))
