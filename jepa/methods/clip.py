"""Supervised by text: CLIP (Radford et al., 2021, arXiv 2103.00020) and SigLIP (Zhai et al., 2023,
arXiv 2303.15343). Images and captions meet in one space; the negatives are the batch's other captions.

  a = linear(encoder(view)),  t = linear(text encoder(caption)),  of length one                  [B D]
  CLIP:   L = (cross-entropy of softmax_j(s a_i . t_j) at j = i, and of softmax_i) / 2
  SigLIP: L = - sum_ij log sigmoid(y_ij (s a_i . t_j + b)) / B,   y_ij = 1 where i = j, else -1
"""
from collections.abc import Mapping, Sequence
import math

import jax
import jax.numpy as jnp

from jepa import text as text_codes, views as view_recipes
from jepa.losses import contrastive, prediction
from jepa.models import heads, text as text_models, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "CLIP / SigLIP", "arXiv 2103.00020, 2303.15343", "supervised"
PREVENTS = "negatives: the other captions of the batch"

TEMPLATES = ("{}", "a photo of a {}", "a picture of the {}", "this is a {}", "an image showing a {}")


def make(*, encoder: Mapping, text: Mapping, views: Mapping, width: int = 128, loss: str = "siglip",
         names: Sequence[str] = (), templates: Sequence[str] = TEMPLATES, length: int = 64,
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """Supervision by text.

  Args:
    encoder, mean, std: see towers.make. text: of models.text.encoder. views: of views.make, one.
    width: of the common space. loss: "siglip" or "clip".
    names: of the classes, for sets without captions: a caption is then a name in one of `templates`.
    length: longest caption in bytes. none: no negatives (2 - 2 cos).

  Captions of a batch, batch["text"] int32 [B L] (source "captions"), come before names.
  """
  del steps
  if loss not in ("siglip", "clip"):
    raise ValueError(f"config.args.loss {loss!r} is unknown; choose one of siglip, clip")
  tower = towers.make(encoder=encoder, heads=dict(projector=heads.mlp(widths=(width,))), mean=mean, std=std)
  reader = text_models.encoder(vocabulary=text_codes.VOCABULARY, length=length, **text)
  project = heads.linear(width)
  recipe = view_recipes.make(**views)
  start_scale, start_bias = (math.log(10.0), -10.0) if loss == "siglip" else (math.log(1 / 0.07), 0.0)
  # [classes templates L]
  table = text_codes.tokenise([t.format(n) for n in names for t in templates], length).reshape(
      len(names), len(templates), length) if names else None

  def init(key, batch):
    k_image, k_text, k_project = jax.random.split(key, 3)
    params, stats = tower.init(k_image, batch["image"])
    text_params = reader.init(k_text)
    h = reader.apply(text_params, jnp.ones((1, length), jnp.int32))
    params |= {"text": text_params, "text_projector": project.init(k_project, h)}
    if not none:
      params["logits"] = {"scale": jnp.float32(start_scale)} | (
          {"bias": jnp.float32(start_bias)} if loss == "siglip" else {})
    return params, stats

  def captions(batch, key):
    if "text" in batch:
      return batch["text"][:, :length]
    if table is None:
      raise ValueError("supervision by text needs captions: use config.data.source='captions', or name the "
                       "classes in config.args.names")
    label = jnp.clip(batch["label"], 0, len(names) - 1)
    return jnp.asarray(table)[label, jax.random.randint(key, label.shape, 0, len(templates))]

  def value_of(params, extra, batch, key):
    k_view, k_text = jax.random.split(key)
    out, extra = tower.apply(params, extra, recipe(k_view, batch["image"]))
    a = out["projector"][0]
    t = project.apply(params["text_projector"], reader.apply(params["text"], captions(batch, k_text)))
    agree = prediction.normalised_mse(a, t)
    if none:
      value = agree
    elif loss == "clip":    # the released code keeps the scale below 100
      value = contrastive.clip(a, t, jnp.exp(jnp.minimum(params["logits"]["scale"], math.log(100.0))))
    else:
      value = contrastive.siglip(a, t, jnp.exp(params["logits"]["scale"]), params["logits"]["bias"])
    return value, (extra, {"agree": agree, "spread": prediction.spread(a[None])})

  return towers.method(tower, value_of)._replace(init=init)
