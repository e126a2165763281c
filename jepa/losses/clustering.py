"""Losses over assignments to prototypes: SwAV's equal partition, DINO's centred and sharpened teacher."""
import jax
import jax.numpy as jnp


def sinkhorn(scores_BK: jax.Array, *, epsilon: float = 0.05, iterations: int = 3) -> jax.Array:
  """Soft codes [B K], rows summing to one, that use all prototypes alike over the global batch (SwAV,
  arXiv 2006.09882, eq. 3 and listing)."""
  b, k = scores_BK.shape
  log_q = scores_BK.astype(jnp.float32) / epsilon
  for _ in range(iterations):       # logarithms: exp(1 / 0.05) squared is near the end of f32
    log_q -= jax.nn.logsumexp(log_q, 0, keepdims=True) + jnp.log(k)
    log_q -= jax.nn.logsumexp(log_q, 1, keepdims=True) + jnp.log(b)
  return jnp.exp(log_q) * b


def across_views(probs_GBK: jax.Array, logits_VBK: jax.Array) -> jax.Array:
  """Mean over g and v != g of the cross-entropy of view v's prediction with the assignment of global view g
  (SwAV, eq. 1-2; DINO, arXiv 2104.14294, eq. 2-3). The first G of the V views are the global ones."""
  log_p = jax.nn.log_softmax(logits_VBK.astype(jnp.float32))
  probs = probs_GBK.astype(jnp.float32)
  entropy = -jnp.einsum("gbk,vbk->gv", probs, log_p, precision="float32") / probs.shape[1]
  g, v = entropy.shape
  other = ~jnp.eye(g, v, dtype=bool)
  return jnp.where(other, entropy, 0.0).sum() / other.sum()


def tokens(probs_BNK: jax.Array, logits_BNK: jax.Array, hidden_BN: jax.Array) -> jax.Array:
  """Cross-entropy at hidden tokens, the mean over each image's hidden tokens (0 where there are none) and
  then over all images (iBOT, arXiv 2111.07832, eq. 2; as in the released code)."""
  value = -(probs_BNK * jax.nn.log_softmax(logits_BNK.astype(jnp.float32))).sum(-1)
  count = hidden_BN.sum(1)
  each = jnp.where(hidden_BN, value, 0.0).sum(1) / jnp.maximum(count, 1)
  return each.mean()


def perplexity(probs: jax.Array) -> jax.Array:
  """How many of the prototypes are in use: exp of the entropy of the mean of [... K] assignments."""
  mean = probs.reshape(-1, probs.shape[-1]).astype(jnp.float32).mean(0)
  return jnp.exp(-(mean * jnp.log(jnp.maximum(mean, 1e-12))).sum())
