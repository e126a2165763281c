"""Variational autoencoder (Kingma and Welling, 2013, arXiv 1312.6114; beta: Higgins et al., ICLR 2017).

  q(u | x) = N(mu, sigma^2),  (mu, log sigma^2) = head(encoder(x));     u = mu + sigma * noise       [B Z]
  L = mean_x sum over pixels of (decoder(u) - x)^2 / (2 s^2)  +  beta KL(q(u | x), N(0, I)),   per pixel
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import reconstruction
from jepa.models import heads, pixels, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "VAE", "arXiv 1312.6114", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, decoder: Mapping, views: Mapping, latent: int = 64, beta: float = 1.0,
         noise: float = 0.5, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """Variational autoencoder.

  Args:
    encoder: of backbone.make. decoder: of vit.decoder. views: of views.make, one. latent: Z.
    noise: s, standard deviation of a pixel given the latent, in units of standardised pixels.
  """
  del steps
  tower = towers.make(encoder=encoder, mean=mean, std=std)
  head = heads.linear(2 * latent)
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_head, k_dec = jax.random.split(key, 3)
    params, stats = tower.init(k_enc, batch["image"])
    features = tower.embed(params, stats, batch["image"])
    decode = pixels.decoder(prepare(batch["image"]), features.tokens, decoder, inputs=latent)
    return params | {"head": head.init(k_head, features.pooled), "decoder": decode.init(k_dec)}, stats

  def loss(params, extra, batch, key):
    k_view, k_noise = jax.random.split(key)
    image = recipe(k_view, batch["image"])[0][0]
    x = prepare(image)
    features, stats = tower.features(params, extra, image)
    mu, log_variance = jnp.split(head.apply(params["head"], features.pooled), 2, -1)
    u = mu + jnp.exp(log_variance / 2) * jax.random.normal(k_noise, mu.shape)
    guess = pixels.decoder(x, features.tokens, decoder, inputs=latent).apply(params["decoder"], u)
    error = reconstruction.squared(guess, x).mean()
    kl = reconstruction.gaussian_kl(mu, log_variance)
    value = error / (2 * noise**2) + beta * kl / x[0].size
    return value, (stats, {"explained": 1 - error / x.var(), "kl_nats": kl})

  def embed(params, extra, batch):
    return tower.embed(params, extra, batch["image"])

  return Method(init, loss, lambda params, extra, step: extra, embed)
