"""Contrastive losses: pairs of one image agree, those of different images do not. The negatives are the
global batch. Products are in f32: an accelerator's default, TF32 or bf16, divided by a small temperature, is
an error of percents."""
import jax
import jax.numpy as jnp

from jepa.losses.prediction import unit


def margin(a_BD: jax.Array, b_BD: jax.Array, *, margin: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """(attraction of pairs, repulsion of all others) of Siamese networks (Bromley et al., 1993; Hadsell,
  Chopra and LeCun, CVPR 2006, eq. 4):

    mean_i |a_i - b_i|^2 / 2,   mean_{i != j} max(0, margin - |a_i - b_j|)^2 / 2
  """
  a, b = a_BD.astype(jnp.float32), b_BD.astype(jnp.float32)
  squared = jnp.square(a[:, None] - b[None]).sum(-1)
  other = ~jnp.eye(len(a), dtype=bool)
  distance = jnp.sqrt(jnp.maximum(squared, 1e-12))
  repulsion = jnp.where(other, jnp.square(jnp.maximum(0.0, margin - distance)), 0.0).sum() / other.sum()
  return jnp.diagonal(squared).mean() / 2, repulsion / 2


def nt_xent(a_BD: jax.Array, b_BD: jax.Array, *, temperature: float = 0.1) -> jax.Array:
  """SimCLR's normalised temperature-scaled cross-entropy (arXiv 2002.05709, eq. 1): each of 2B embeddings
  finds its partner among the 2B - 1 others."""
  z = unit(jnp.concatenate([a_BD, b_BD]))
  n = len(a_BD)
  logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, _dots(z, z) / temperature)
  partner = (jnp.arange(2 * n) + n) % (2 * n)
  return cross_entropy(logits, partner)


def info_nce(q_BD: jax.Array, k_BD: jax.Array, *, temperature: float = 0.2,
             queue_QD: jax.Array | None = None) -> jax.Array:
  """Each query finds its key among all keys of the batch (MoCo v3, arXiv 2104.02057), or its key among the
  queue (MoCo, arXiv 1911.05722, algorithm 1)."""
  q, k = unit(q_BD), unit(k_BD)
  if queue_QD is None:
    return cross_entropy(_dots(q, k) / temperature, jnp.arange(len(q)))
  logits = jnp.concatenate([(q * k).sum(-1, keepdims=True), _dots(q, queue_QD)], 1) / temperature
  return cross_entropy(logits, jnp.zeros(len(q), jnp.int32))


def clip(image_BD: jax.Array, text_BD: jax.Array, scale: jax.Array) -> jax.Array:
  """Cross-entropy of images over texts and of texts over images, halved (CLIP, arXiv 2103.00020, fig. 3)."""
  logits = scale * _dots(unit(image_BD), unit(text_BD))
  own = jnp.arange(len(logits))
  return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def siglip(image_BD: jax.Array, text_BD: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Every pair of the batch is a match or not, a sigmoid each (SigLIP, arXiv 2303.15343, algorithm 1)."""
  logits = scale * _dots(unit(image_BD), unit(text_BD)) + bias
  sign = 2 * jnp.eye(len(logits)) - 1
  return -jax.nn.log_sigmoid(sign * logits).sum() / len(logits)


def cross_entropy(logits_BK: jax.Array, label_B: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Mean of -log softmax(logits)[label], of labels mixed with the uniform distribution by `smoothing`."""
  log_p = jax.nn.log_softmax(logits_BK.astype(jnp.float32))
  value = -jnp.take_along_axis(log_p, label_B[:, None], -1).mean()
  return (1 - smoothing) * value - smoothing * log_p.mean() if smoothing else value


def _dots(a_ND: jax.Array, b_MD: jax.Array) -> jax.Array:
  return jnp.matmul(a_ND, b_MD.astype(jnp.float32).T, precision="float32")
