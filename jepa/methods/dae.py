"""Denoising autoencoder (Vincent et al., ICML 2008): the clean image from a noisy one.

  z  = encoder(x + sigma * noise)                                [B N D]
  L  = mean over pixels of (decoder(z) - x)^2
"""
from collections.abc import Mapping, Sequence

import jax

from jepa import views as view_recipes
from jepa.losses import reconstruction
from jepa.models import pixels, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "Denoising AE", "ICML 2008", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, decoder: Mapping, views: Mapping, sigma: float = 0.5,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """Denoising autoencoder.

  Args:
    encoder: of backbone.make. decoder: of vit.decoder. views: of views.make, one.
    sigma: of the noise, in units of standardised pixels.
  """
  del steps
  tower = towers.make(encoder=encoder, mean=0.0, std=1.0)      # standardised here, before the noise
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_dec = jax.random.split(key)
    x = prepare(batch["image"])
    params, stats = tower.init(k_enc, x)
    tokens = tower.embed(params, stats, x).tokens
    return params | {"decoder": pixels.decoder(x, tokens, decoder).init(k_dec)}, stats

  def loss(params, extra, batch, key):
    k_view, k_noise = jax.random.split(key)
    x = prepare(recipe(k_view, batch["image"])[0][0])
    features, stats = tower.features(params, extra, x + sigma * jax.random.normal(k_noise, x.shape))
    guess = pixels.decoder(x, features.tokens, decoder).apply(params["decoder"], features.tokens)
    value = reconstruction.squared(guess, x).mean()
    return value, (stats, {"explained": 1 - value / x.var()})

  def embed(params, extra, batch):
    return tower.embed(params, extra, prepare(batch["image"]))

  return Method(init, loss, lambda params, extra, step: extra, embed)
