"""Autoregressive patches (iGPT, Chen et al., 2020; AIM, El-Nouby et al., 2024, arXiv 2401.08541): the pixels
of each patch from the patches before it, in row-major order.

  see_ij = j <= i, or j in the prefix of an image;    z = encoder(x, see)          [B N D]
  L = mean over patches i + 1 beyond the prefix, pixels of (mlp(z_i) - normalised patch_{i+1})^2

Evaluation sees all patches from all: the random prefix has trained for it.
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import prediction, reconstruction
from jepa.models import backbone, heads, vit
from jepa.types import Method

NAME, PAPER, FAMILY = "AIM", "arXiv 2401.08541", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, head: Mapping, views: Mapping, prefix: bool = True,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """Autoregressive patches.

  Args:
    encoder: of vit.encoder, without a class token. head: dict(hidden=[...]), widths of the MLP before its
      output. views: of views.make, one. prefix: patches up to a random one see each other (AIM); otherwise
      all is causal (iGPT).
  """
  del steps
  args = backbone.vit_args(encoder, "autoregression needs patches in order")
  if args.get("cls", False):
    raise ValueError("config.args.encoder.cls: autoregression has no place for a class token; leave it out")
  patch, enc = args.get("patch", 16), vit.encoder(**args)
  mlp = lambda channels: heads.mlp(widths=(*head.get("hidden", ()), patch * patch * channels), norm=False,
                                   activation="gelu")
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    k_enc, k_head = jax.random.split(key)
    x = prepare(batch["image"])
    params = {"encoder": enc.init(k_enc, x)}
    return params | {"head": mlp(x.shape[-1]).init(k_head, enc.apply(params["encoder"], x))[0]}, {}

  def loss(params, extra, batch, key):
    k_view, k_prefix = jax.random.split(key)
    x = prepare(recipe(k_view, batch["image"])[0][0])
    pixels = vit.patches(x, patch)
    b, n, _ = pixels.shape
    # patches [0, length) see each other; the last of them predicts the first beyond
    length = jax.random.randint(k_prefix, (b, 1), 1, n) if prefix else jnp.ones((b, 1), jnp.int32)
    i = jnp.arange(n)
    see = (i[None, :] <= i[:, None]) | (i[None, None, :] < length[:, :, None])
    z = enc.apply(params["encoder"], x, None, 0, None, see)
    guess, _ = mlp(x.shape[-1]).apply(params["head"], {}, z[:, :-1], train=True)
    error = reconstruction.squared(guess, reconstruction.normalise_patches(pixels[:, 1:]))
    value = prediction.masked_mean(error, i[None, 1:] >= length)
    return value, (extra, {"explained": 1 - value})

  def embed(params, extra, batch):
    return backbone.of_vit(enc.apply(params["encoder"], prepare(batch["image"])), False)

  return Method(init, loss, lambda params, extra, step: extra, embed)
