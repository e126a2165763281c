"""I-JEPA (Assran et al., 2023, arXiv 2301.08243): predict the representations of target blocks from a context
block.

  s_x = encoder(x, context tokens)                    [B K D]
  s_y = normalise(stop_gradient(target(x)))           [B N D], target = EMA of the encoder, of the whole image
  s^  = predictor(s_x, positions of block m)          [B M Kt D]
  L   = mean over images, blocks, tokens, channels of smooth_l1(s^_m, s_y at block m)
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jepa import masks as mask_samplers
from jepa import schedules, views
from jepa.losses import prediction, redundancy, sigreg as sigreg_loss
from jepa.models import vit
from jepa.types import Features, Method

NAME, PAPER, FAMILY = "I-JEPA", "arXiv 2301.08243", "masked latent"
PREVENTS = "EMA target with stop-gradient (or SIGReg, VICReg)"


def make(*, encoder: Mapping, predictor: Mapping, masks: Mapping = {},
         ema: Mapping | None = dict(kind="linear", value=0.996, end=1.0), sigreg: Mapping | None = None,
         vicreg: Mapping | None = None, none: bool = False, view: Mapping | None = None,
         photometric: Mapping | None = None, target_layers: int = 0, target_norm: str = "layer",
         beta: float = 1.0, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """I-JEPA.

  Args:
    encoder: keyword arguments of vit.encoder. predictor: of vit.predictor. masks: of masks.multiblock.
    ema: of schedules.make, for the target's momentum. None: the target is the encoder itself.
    sigreg: weight and slices of SIGReg (losses.sigreg) on the pooled representation of the whole image,
      beside or (with ema None) instead of the EMA target; None: none.
    vicreg: likewise, weights `variance` and `covariance` of VICReg's terms (losses.redundancy).
    none: the target is the encoder, with its gradient, without normalisation or regulariser.
    view: of views.make for one view, shared by context and targets (a random crop, say); None: the image.
    photometric: of views.apply_photometric, drawn apart for context and targets, so that colour cannot be
      carried over (not in the paper); None: none.
    target_layers: targets are the mean of the normalised outputs of so many last blocks (data2vec, arXiv
      2202.03555); 0: of the encoder's output.
    target_norm: "layer" (LayerNorm without affine, as released), or "centred" (see losses.prediction.centre).
    beta: of smooth L1. mean, std: of pixels in [0, 1], by channel.
  """
  enc = vit.encoder(**encoder)
  pred = vit.predictor(inputs=vit.width_of(encoder), **predictor)
  patch = encoder.get("patch", 16)
  sample = mask_samplers.multiblock(**masks)
  momentum = schedules.make(**ema, steps=steps) if ema is not None and not none else None
  recipe = views.make(**view) if view is not None else None
  prepare = lambda image: views.standardise(image, mean, std)
  if target_norm not in ("layer", "centred"):
    raise ValueError(f"target_norm {target_norm!r} is unknown; choose one of layer, centred")

  def init(key, batch):
    k_enc, k_pred = jax.random.split(key)
    params = {"encoder": enc.init(k_enc, prepare(batch["image"])), "predictor": pred.init(k_pred)}
    return params, {"target": jax.tree.map(jnp.copy, params["encoder"])} if momentum else {}

  def target(params, x):
    """Targets [B N D], and the shares of their variance that position and image explain before centring."""
    h = enc.apply(params, x, None, 0 if none else target_layers)
    return (h, prediction.shares(h)) if none else _normalised(h, target_layers, target_norm)

  def loss(params, extra, batch, key):
    k_view, k_masks, k_slices, k_context, k_target = jax.random.split(key, 5)
    image = recipe(k_view, batch["image"])[0][0] if recipe else views.to_float(batch["image"])
    recolour = lambda k: (
        views.each(views.apply_photometric, k, image, **photometric) if photometric else image)
    x, x_target = (prepare(recolour(k)) for k in (k_context, k_target))
    grid = vit.grid_of(x, patch)
    context, targets = sample(k_masks, x.shape[0], grid)

    s_y, (position, whole) = target(extra["target"] if momentum else params["encoder"], x_target)
    s_y = s_y if none else jax.lax.stop_gradient(s_y)
    s_x = enc.apply(params["encoder"], x, context)
    guess = pred.apply(params["predictor"], s_x, context, targets, grid)
    goal = mask_samplers.gather(s_y, targets)
    value = prediction.smooth_l1(guess, goal, targets.valid, beta=beta)
    metrics = {"prediction": value, "position_share": position, "image_share": whole,
               **_diagnostics(s_y, guess, goal, targets, beta)}
    if (sigreg or vicreg) and not none:
      terms = _regularisers(enc.apply(params["encoder"], x).mean(1), k_slices, sigreg, vicreg)
      value = sum((weight * term for weight, term in terms.values()), value)
      metrics |= {name: term for name, (_, term) in terms.items()}
    return value, (extra, metrics)

  def post(params, extra, step):
    if not momentum:
      return extra
    return {"target": optax.incremental_update(params["encoder"], extra["target"], 1 - momentum(step))}

  def embed(params, extra, batch) -> Features:
    tokens = enc.apply(extra["target"] if momentum else params["encoder"], prepare(batch["image"]))
    return Features(tokens.mean(1), tokens)

  return Method(init, loss, post, embed)


def _normalised(h, layers, norm):
  """(targets, shares) of what leaves the encoder, [B N D], or its last blocks, [layers B N D]."""
  h = prediction.layer_norm(h)
  h = h.mean(0) if layers else h
  return (prediction.centre(h) if norm == "centred" else h), prediction.shares(h)


def _diagnostics(s_y, guess, goal, targets, beta):
  """Metrics of targets s_y [B N D] and of what is predicted for `goal` [B M Kt D]."""
  # What the position alone would say: the loss falls below this only where the context is used.
  blind = jnp.broadcast_to(s_y.mean(0), s_y.shape)
  by_position = prediction.smooth_l1(mask_samplers.gather(blind, targets), goal, targets.valid, beta=beta)
  return {"by_position": by_position, "target_std": s_y.std(0).mean(),
          "variance_ratio": _variance(guess, targets.valid) / _variance(goal, targets.valid)}


def _regularisers(pooled_BD, key, sigreg, vicreg):
  """name -> (weight, value) of SIGReg and of VICReg's two terms, where they are wanted."""
  terms = {}
  if sigreg:
    terms["sigreg"] = sigreg["weight"], sigreg_loss.sigreg(pooled_BD, key, slices=sigreg.get("slices", 256))
  if vicreg:
    terms["variance"] = vicreg["variance"], redundancy.variance(pooled_BD)
    terms["covariance"] = vicreg["covariance"], redundancy.covariance(pooled_BD)
  return terms


def _variance(x, valid):
  """Variance over valid tokens, averaged over channels."""
  mean = (x * valid[..., None]).sum((0, 1, 2)) / valid.sum()
  return prediction.masked_mean(jnp.square(x - mean).mean(-1), valid)
