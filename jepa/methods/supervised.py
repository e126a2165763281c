"""Supervised by labels: cross-entropy of a linear classifier on the pooled representation.

  L = mean of -log softmax(linear(encoder(view)))[label], labels smoothed
"""
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jepa import views as view_recipes
from jepa.losses import contrastive
from jepa.models import heads, towers
from jepa.types import Method

NAME, PAPER, FAMILY = "Supervised, labels", "cross-entropy", "supervised"
PREVENTS = "labels"


def make(*, encoder: Mapping, views: Mapping, classes: int, smoothing: float = 0.0,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25, steps: int) -> Method:
  """Supervision by labels.

  Args:
    encoder, mean, std: see towers.make. views: of views.make, one. classes: labels are 0 .. classes - 1.
    smoothing: share of the uniform distribution in the target.
  """
  del steps
  tower = towers.make(encoder=encoder, heads=dict(classifier=heads.mlp(widths=(classes,))), mean=mean,
                      std=std)
  recipe = view_recipes.make(**views)

  def loss(params, extra, batch, key):
    out, extra = tower.apply(params, extra, recipe(key, batch["image"]))
    logits, label = out["classifier"][0], batch["label"]
    # An example without a label, or with one beyond `classes`, makes the loss NaN: the run stops, naming it.
    known = ((label >= 0) & (label < classes)).all()
    value = contrastive.cross_entropy(logits, jnp.clip(label, 0, classes - 1), smoothing)
    accuracy = (logits.argmax(-1) == label).mean()
    return jnp.where(known, value, jnp.nan), (extra, {"train_accuracy": accuracy})

  return towers.method(tower, loss)
