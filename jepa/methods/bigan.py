"""BiGAN (Donahue, Krähenbühl and Darrell, 2016, arXiv 1605.09782; ALI, arXiv 1606.00704): an encoder and a
generator whose pairs (x, E(x)) and (G(u), u) a discriminator cannot tell apart.

  E(x) = head(encoder(x)),  G(u) = decoder(u),  u ~ N(0, I)                                    [B Z]
  L_D  = mean softplus(-D(x, E(x))) + mean softplus(D(G(u), u));  L_EG the same with opposite labels

One step moves all: the discriminator's loss reads pairs without gradient, the others' loss reads a
discriminator without gradient, and the two are added.
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import reconstruction
from jepa.models import heads, pixels, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "BiGAN", "arXiv 1605.09782", "reconstruction"
PREVENTS = "nothing to prevent: pixels are given"


def make(*, encoder: Mapping, decoder: Mapping, discriminator: Mapping, views: Mapping, latent: int = 64,
         hidden: int = 256, penalty: float = 1.0, mean: float | Sequence[float] = 0.5,
         std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """BiGAN.

  Args:
    encoder: of backbone.make. decoder: of vit.decoder, the generator. discriminator: of backbone.make, its
      view of images (no BatchNorm: name="vit"). views: of views.make, one. latent: Z.
    hidden: width of the discriminator's joint layers. penalty: on the squared gradient of D at real pairs
      (R1, arXiv 1801.04406), in units of standardised pixels; without it the discriminator wins.
  """
  del steps
  if discriminator.get("name", "vit") != "vit":
    raise ValueError(f"config.args.discriminator.name = {discriminator['name']!r}: the discriminator has no "
                     "running statistics; use name='vit'")
  tower, critic = (towers.make(encoder=e, mean=mean, std=std) for e in (encoder, discriminator))
  head = heads.linear(latent)
  judge = heads.mlp(widths=(hidden, hidden, 1), norm=False, activation="gelu")
  recipe = view_recipes.make(**views)
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def init(key, batch):
    keys = jax.random.split(key, 5)
    params, stats = tower.init(keys[0], batch["image"])
    features = tower.embed(params, stats, batch["image"])
    params["head"] = head.init(keys[1], features.pooled)
    params["decoder"] = pixels.decoder(prepare(batch["image"]), features.tokens, decoder,
                                       inputs=latent).init(keys[2])
    seen, _ = critic.init(keys[3], batch["image"])
    pair = jnp.zeros((1, critic.embed(seen, {"encoder": {}}, batch["image"]).pooled.shape[-1] + latent))
    return params | {"critic": seen | {"judge": judge.init(keys[4], pair)[0]}}, stats

  def logit(params, image, u):
    """D(x, u) [B]."""
    pooled = critic.embed(params, {"encoder": {}}, image).pooled
    return judge.apply(params["judge"], {}, jnp.concatenate([pooled, u], -1), train=True)[0][:, 0]

  def loss(params, extra, batch, key):
    k_view, k_latent = jax.random.split(key)
    image = recipe(k_view, batch["image"])[0][0]
    features, stats = tower.features(params, extra, image)
    inferred = head.apply(params["head"], features.pooled)
    u = jax.random.normal(k_latent, inferred.shape)
    made = pixels.decoder(image, features.tokens, decoder, inputs=latent).apply(params["decoder"], u)
    made = made * jnp.asarray(std) + jnp.asarray(mean)     # to pixels in [0, 1], where the critic looks

    still = jax.lax.stop_gradient
    d_loss, _ = reconstruction.adversarial(logit(params["critic"], image, still(inferred)),
                                           logit(params["critic"], still(made), u))
    slope = jax.grad(lambda x: logit(params["critic"], x, still(inferred)).sum())(image) * jnp.asarray(std)
    r1 = jnp.square(slope).sum((1, 2, 3)).mean()
    real, fake = logit(still(params["critic"]), image, inferred), logit(still(params["critic"]), made, u)
    _, others = reconstruction.adversarial(real, fake)
    value = d_loss + penalty / 2 * r1 + others
    return value, (stats, {"discriminator": d_loss, "encoder_generator": others, "r1": r1,
                           "told_apart": ((real > 0).mean() + (fake < 0).mean()) / 2})

  def embed(params, extra, batch):
    return tower.embed(params, extra, batch["image"])

  return Method(init, loss, lambda params, extra, step: extra, embed)
