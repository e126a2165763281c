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
  prepare = lambda image: view_recipes.standardise(image, mean, std)

  def features(params, x, hidden=None):
    return backbone.of_vit(enc.apply(params["encoder"], x, None, 0, hidden), args.get("cls", False))

  def init(key, batch):
    k_enc, k_head, k_last = jax.random.split(key, 3)
    x = prepare(batch["image"])
    params = {"encoder": enc.init(k_enc, x)}
    h = features(params, x).pooled
    params["projector"], _ = head.init(k_head, h)
    z, _ = head.apply(params["projector"], {}, h, train=True)
    params["prototypes"], _ = last.init(k_last, z)
    extra = {} if none else {
        "target": jax.tree.map(jnp.copy, params), "temperature": sharpness(0),
        "centre": jnp.zeros(prototypes), "patches": {"centre": jnp.zeros(prototypes)}}
    return params, extra

  def scores(params, x_VBHWC, hidden_VBN=None):
    """Cosines of images [V B K] and of patches [V B N K] with the prototypes; pooled features [V B D]."""
    f = jax.vmap(lambda x, hidden: features(params, x, hidden))(x_VBHWC, hidden_VBN)
    def cosines(h):
      z, _ = head.apply(params["projector"], {}, h, train=True)
      return last.apply(params["prototypes"], {}, z, train=True)[0]
    return cosines(f.pooled), cosines(f.tokens), f.pooled

  def loss(params, extra, batch, key):
    k_views, k_masks, k_some = jax.random.split(key, 3)
    groups = [prepare(g) for g in recipe(k_views, batch["image"])]
    g, b = groups[0].shape[:2]
    hidden = masks.hide(k_masks, g * b, vit.grid_of(groups[0][0], patch), share=share)
    hidden &= jax.random.bernoulli(k_some, probability, (g * b, 1))

    s_image, s_patch, pooled = scores(params, groups[0], hidden.reshape(g, b, -1))
    s_all = jnp.concatenate([s_image] + [scores(params, local)[0] for local in groups[1:]])
    if none:
      t_image, t_patch, _ = scores(params, groups[0])
      p_image, p_patch = (jax.nn.softmax(t / student_temperature) for t in (t_image, t_patch))
    else:
      t_image, t_patch, _ = jax.lax.stop_gradient(scores(extra["target"], groups[0]))
      p_image, p_patch, extra = _taught(extra, t_image, t_patch, centre_momentum)
    of_images = clustering.across_views(p_image, s_all / student_temperature)
    flat = lambda x: x.reshape(g * b, *x.shape[2:])
    of_patches = clustering.tokens(flat(p_patch), flat(s_patch) / student_temperature, hidden)
    metrics = {"images": of_images, "patches": of_patches, "codes_used": clustering.perplexity(p_patch),
               "spread": prediction.spread(pooled)}
    return of_images + weight * of_patches, (extra, metrics)

  def post(params, extra, step):
    if none:
      return extra
    return extra | {"target": optax.incremental_update(params, extra["target"], 1 - momentum(step)),
                    "temperature": sharpness(step + 1)}

  def embed(params, extra, batch):
    return features(params if none else extra["target"], prepare(batch["image"]))

  return Method(init, loss, post, embed)


def _taught(extra, t_image, t_patch, momentum):
  """(soft clusters of images, of patches, extra): the teacher's scores centred and sharpened; then its
  centres move."""
  of_images, of_patches = extra["centre"], extra["patches"]["centre"]
  assign = lambda t, centre: jax.lax.stop_gradient(jax.nn.softmax((t - centre) / extra["temperature"]))
  move = lambda centre, t: momentum * centre + (1 - momentum) * t.reshape(-1, t.shape[-1]).mean(0)
  moved = {"centre": move(of_images, t_image), "patches": {"centre": move(of_patches, t_patch)}}
  return assign(t_image, of_images), assign(t_patch, of_patches), extra | moved
