"""The state of a run and the pure train step. No I/O, no globals, no config objects."""
import jax
import jax.numpy as jnp
import optax

from jepa.types import Batch, Method, Metrics, TrainState


def init(key: jax.Array, batch: Batch, *, method: Method, tx: optax.GradientTransformation) -> TrainState:
  """The state at step 0. `batch` gives shapes only."""
  k_init, k_loop = jax.random.split(key)
  params, extra = method.init(k_init, batch)
  return TrainState(jnp.zeros((), jnp.int32), params, extra, tx.init(params), k_loop)


def train_step(state: TrainState, batch: Batch, *, method: Method, tx: optax.GradientTransformation,
               accumulate: int = 1) -> tuple[TrainState, Metrics]:
  """One update. A step whose loss or gradient is not finite changes nothing but `step`
  and reports `skipped` 1.

  Returns:
    The next state and f32 scalars: the method's metrics, `loss`, `grad_norm`, `param_norm`, `skipped`.
  """
  key = jax.random.fold_in(state.key, state.step)
  loss, extra, metrics, grads = _gradient(method, state, batch, key, accumulate)

  updates, opt = tx.update(grads, state.opt, state.params)
  params = optax.apply_updates(state.params, updates)
  extra = method.post(params, extra, state.step)

  grad_norm = optax.tree.norm(grads)
  ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
  metrics = metrics | {"loss": loss, "grad_norm": grad_norm, "param_norm": optax.tree.norm(params),
                       "skipped": 1.0 - ok}
  state = TrainState(state.step + 1, keep(params, state.params), keep(extra, state.extra),
                     keep(opt, state.opt), state.key)
  return state, metrics


def _gradient(method, state, batch, key, accumulate):
  """Loss, extra, metrics and gradient of a batch: in one piece, or the mean over `accumulate` micro-batches
  in turn."""
  grad_of = jax.value_and_grad(method.loss, has_aux=True)
  if accumulate == 1:
    (loss, (extra, metrics)), grads = grad_of(state.params, state.extra, batch, key)
    return loss, extra, metrics, grads

  # Micro-batch i takes every accumulate-th example, so that each is spread over all devices as the batch is.
  micro = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

  def body(extra, inputs):
    index, examples = inputs
    (loss, (extra, metrics)), grads = grad_of(state.params, extra, examples, jax.random.fold_in(key, index))
    return extra, (loss, metrics, grads)

  def accumulate_body(carry, inputs):
    extra, total = carry
    extra, out = body(extra, inputs)
    return (extra, jax.tree.map(jnp.add, total, out)), None

  shapes = jax.eval_shape(body, state.extra, (jnp.int32(0), jax.tree.map(lambda x: x[0], micro)))[1]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  (extra, total), _ = jax.lax.scan(accumulate_body, (state.extra, zeros), (jnp.arange(accumulate), micro))
  loss, metrics, grads = jax.tree.map(lambda x: x / accumulate, total)
  return loss, extra, metrics, grads
