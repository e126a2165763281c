"""iBOT (Zhou et al., 2021, arXiv 2111.07832): DINO between views, and at hidden patches the teacher's soft
cluster of the patch.

  t_g = head(teacher(view_g)),  s_g = head(student(view_g with hidden patches)),  s_l = head(student(view_l))
  L   = L_DINO(pooled t, s)  +  weight * mean over hidden patches of H(p(t_g), p(s_g)),   one head for both
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jepa import masks, schedules, views as view_recipes
from jepa.losses import clustering, prediction
from jepa.models import backbone, heads, vit
from jepa.types import Method

NAME, PAPER, FAMILY = "iBOT", "arXiv 2111.07832", "masked latent"
PREVENTS = "EMA teacher, centred and sharpened"


def make(*, encoder: Mapping, projector: Mapping, views: Mapping, prototypes: int = 8192,
         weight: float = 1.0, share: Sequence[float] = (0.1, 0.5), probability: float = 0.5,
         student_temperature: float = 0.1, teacher_temperature: Mapping = dict(value=0.04),
         ema: Mapping = dict(kind="cosine", value=0.996, end=1.0), centre_momentum: float = 0.9,
         none: bool = False, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         steps: int) -> Method:
  """iBOT.

  Args:
    encoder: of vit.encoder; cls=True for the paper's class token, else the mean token stands for the image.
    projector: of heads.mlp, up to the bottleneck (no BatchNorm). views, prototypes, temperatures, ema: as in
      DINO. weight: of the patches. share: range of hidden patches, in an image with some; probability: of it.
    none: the teacher is the student, with its gradient; no centre; one temperature.
  """
  args = backbone.vit_args(encoder, "iBOT hides patches")
  enc, patch = vit.encoder(**args, mask_token=True), args.get("patch", 16)
  head, last = heads.mlp(**dict(norm=False, **projector)), heads.prototypes(prototypes)
  recipe = view_recipes.make(**views)
  momentum = schedules.make(**ema, steps=steps)
  sharpness = schedules.make(**teacher_temperature, steps=steps)
  prepare = lambda image: view_recipes.standardise(view_recipes.to_float(image), mean, std)

  def init(key, batch):
    keys = jax.random.split(key, 3)
    x = prepare(batch["image"])
    params = {"encoder": enc.init(keys[0], x)}
    h = _features(params["encoder"], x).pooled
    params["projector"], _ = head.init(keys[1], h)
    z, _ = head.apply(params["projector"], {}, h, train=True)
    params["prototypes"], _ = last.init(keys[2], z)
    extra = {} if none else {
        "target": jax.tree.map(jnp.copy, params), "temperature": sharpness(0),
        "centre": jnp.zeros(prototypes), "patches": {"centre": jnp.zeros(prototypes)}}
    return params, extra

  def _features(params, x, hidden=None):
    return backbone.of_vit(enc.apply(params, x, None, 0, hidden), args.get("cls", False))

  def scores(params, x_VBHWC, hidden_VBN=None):
    """Cosines with the prototypes: of images [V B K] and of patches [V B N K]."""
    if hidden_VBN is None:
      f = jax.vmap(lambda x: _features(params["encoder"], x))(x_VBHWC)
    else:
      f = jax.vmap(lambda x, hidden: _features(params["encoder"], x, hidden))(x_VBHWC, hidden_VBN)
    def one(h):
      z, _ = head.apply(params["projector"], {}, h, train=True)
      return last.apply(params["prototypes"], {}, z, train=True)[0]
    return one(f.pooled), one(f.tokens), f.pooled

  def loss(params, extra, batch, key):
    k_views, k_masks, k_some = jax.random.split(key, 3)
    groups = [prepare(g) for g in recipe(k_views, view_recipes.to_float(batch["image"]))]
    g, b = groups[0].shape[:2]
    grid = vit.grid_of(groups[0][0], patch)
    hidden = masks.hide(k_masks, g * b, grid, share=share)
    hidden &= jax.random.bernoulli(k_some, probability, (g * b, 1))
    hidden = hidden.reshape(g, b, -1)

    s_image, s_patch, pooled = scores(params, groups[0], hidden)
    s_all = jnp.concatenate([s_image] + [scores(params, local)[0] for local in groups[1:]])
    if none:
      t_image, t_patch, _ = scores(params, groups[0])
      p_image, p_patch = (jax.nn.softmax(t / student_temperature) for t in (t_image, t_patch))
    else:
      t_image, t_patch, _ = jax.lax.stop_gradient(scores(extra["target"], groups[0]))
      assign = lambda t, centre: jax.lax.stop_gradient(jax.nn.softmax((t - centre) / extra["temperature"]))
      p_image, p_patch = assign(t_image, extra["centre"]), assign(t_patch, extra["patches"]["centre"])
      blend = lambda centre, t: (centre_momentum * centre
                                 + (1 - centre_momentum) * t.reshape(-1, prototypes).mean(0))
      extra = extra | {"centre": blend(extra["centre"], t_image),
                       "patches": {"centre": blend(extra["patches"]["centre"], t_patch)}}
    of_images = clustering.across_views(p_image, s_all / student_temperature)
    flat = lambda x: x.reshape(g * b, -1, *x.shape[3:])
    of_patches = clustering.tokens(flat(p_patch), flat(s_patch) / student_temperature,
                                   hidden.reshape(g * b, -1))
    metrics = {"images": of_images, "patches": of_patches, "codes_used": clustering.perplexity(p_patch),
               "spread": prediction.spread(pooled)}
    return of_images + weight * of_patches, (extra, metrics)

  def post(params, extra, step):
    if none:
      return extra
    return extra | {"target": optax.incremental_update(params, extra["target"], 1 - momentum(step)),
                    "temperature": sharpness(step + 1)}

  def embed(params, extra, batch):
    return _features((params if none else extra["target"])["encoder"], prepare(batch["image"]))

  return Method(init, loss, post, embed)
