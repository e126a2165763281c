"""Fine-tuning end to end with every label: a linear head on the pooled representation, encoder and head
trained together.

The one evaluator that changes the encoder. Of an untrained encoder it is supervised training from scratch on
the same budget, which is the floor to compare with. AdamW (arXiv 1711.05101) with a cosine after a short
warm-up; the only augmentation is a random translation. BatchNorm runs in evaluation mode on the running
statistics that it has: in an untrained encoder it normalises nothing.

Shape letters: B batch, H W C image, D width, K classes.
"""
from collections.abc import Callable, Mapping
import functools
import sys
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jepa import optim
from jepa.data import pipeline
from jepa.data.source import Source
from jepa.evals import features as F, results
from jepa.types import Batch, Features, Params, PyTree

VERSION = 1
COLUMNS = (("finetune", "fine-tune", "(all labels)", "percent"),)
ORDER = 5
LABELS = True
STATISTICS = ("mean", "var")        # running ones are no weights: a step could turn a variance negative


def missing(features: F.FeatureSet) -> str:
  """Why nothing can be trained; "" where it can."""
  return "" if features.subject and features.subject.method else "there is no encoder to train"


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             epochs: float = 10, lr: float = 1e-3, batch: int = 128, shift: int = 2,
             weight_decay: float = 0.05, warmup: float = 0.1, clip: float = 1.0) -> list[results.Row]:
  """Test accuracy after fine-tuning; row "finetune".

  Args:
    epochs: over the train split. lr: peak of the cosine, reached after the share `warmup` of the steps.
    batch: global, rounded up to what the mesh splits evenly. weight_decay: of kernels.
    shift: largest translation in pixels, either way; 0: none. clip: largest global gradient norm; 0: none.

  Raises:
    ValueError: features without an encoder behind them, a setting out of range, or training that diverged.
  """
  if why := missing(features):
    raise ValueError(f"{row}: no fine-tuning, since {why}")
  if not (epochs > 0 and batch >= 1 and shift >= 0 and 0 <= warmup < 1):
    raise ValueError(f"finetune: epochs = {epochs}, batch = {batch}, shift = {shift}, warmup = {warmup}; "
                     "epochs and batch must be positive, shift not negative, warmup in [0, 1)")
  settings = dict(epochs=epochs, lr=lr, batch=batch, shift=shift, weight_decay=weight_decay, warmup=warmup,
                  clip=clip)
  of = features.subject
  whole = -(-batch // of.pieces) * of.pieces
  accuracy, outcome = train(of.method.embed, of.params, of.extra, of.train, of.test, seed=seed,
                            shardings=of.shardings, **settings | {"batch": whole})
  if not np.isfinite(outcome["loss"]):
    raise ValueError(f"{row}: fine-tuning diverged (loss {outcome['loss']}); lower "
                     "config.eval.args.finetune.lr")
  record = {**(protocol or {}), "version": VERSION,
            "features": "pooled, encoder trained end to end; BatchNorm keeps its statistics",
            "classifier": "linear, cross-entropy, AdamW with a cosine", "settings": settings,
            "eval_seed": seed, "outcome": outcome}
  return [results.result(row, "finetune", accuracy, record)]


class Plan(NamedTuple):
  """What is fixed of a run; hashable, so that two runs of the same shapes share their compilation."""

  embed: Callable[[Params, PyTree, Batch], Features]
  tree: Any                         # of (params, extra)
  trained: tuple[str, ...]          # path of each leaf, "" where it is not trained
  steps: int
  lr: float
  weight_decay: float
  warmup: int
  clip: float
  shift: int
  sharding: Any                     # of everything but batches; None leaves it to JAX


def train(embed: Callable[[Params, PyTree, Batch], Features], params: Params, extra: PyTree,
          train_source: Source, test_source: Source, *, seed: int, epochs: float, lr: float, batch: int,
          shift: int, weight_decay: float, warmup: float, clip: float,
          shardings: tuple[Any, Any] = (None, None)) -> tuple[float, dict[str, Any]]:
  """(test accuracy, what else came out) of training (params, extra) and a linear head.

  Trained are the floating-point leaves that `embed(...).pooled` depends on, wherever they are, running
  statistics excepted; the optimizer holds state for no others.

  Args:
    embed: differentiable; its normalisation in evaluation mode.
    train_source, test_source: examples without a label (-1) are passed over.
    shardings: of the state, and of a batch, which has to split evenly; None: one device.
  """
  on_state, on_batch = shardings
  put = (lambda b: pipeline.put(b, on_batch)) if on_batch is not None else jax.device_put
  steps = max(1, int(epochs * train_source.length / batch))
  with_paths, tree = jax.tree_util.tree_flatten_with_path((params, extra))
  stream = pipeline.train(train_source, batch=batch, seed=seed)
  with pipeline.prefetch(stream, put) as batches:
    now = next(batches)
    alive = used(lambda p, e: embed(p, e, now).pooled, params, extra)
    names = [optim.path_of(path) for path, _ in with_paths]
    weight = lambda n, x: jnp.issubdtype(x.dtype, jnp.floating) and n.split("/")[-1] not in STATISTICS
    trained = tuple(n if a and weight(n, x) else "" for n, a, (_, x) in zip(names, alive, with_paths))
    plan = Plan(embed, tree, trained, steps, lr, weight_decay, round(warmup * steps), clip, shift, on_state)
    width = jax.eval_shape(embed, params, extra, now).pooled.shape[-1]
    weights = {n: x for n, (_, x) in zip(trained, with_paths) if n}
    fixed = {str(i): x for i, (n, (_, x)) in enumerate(zip(trained, with_paths)) if not n}
    # Copied: the steps overwrite what they are given, and the state is still the caller's.
    weights = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=on_state)(weights)
    shape = width, train_source.classes
    weights |= {"head/kernel": np.zeros(shape, np.float32), "head/bias": np.zeros(shape[1:], np.float32)}
    weights, opt = _start(weights, plan)
    bar = tqdm(range(steps), desc="finetune", unit="step", leave=False, delay=2.0,
               disable=not sys.stderr.isatty())
    for step in bar:
      weights, opt, loss = _step(weights, opt, fixed, now, np.array([seed, step], np.uint32), plan=plan)
      now = next(batches) if step + 1 < steps else None
  logits, label = F.collect(lambda b: Features(_logits(weights, fixed, b, plan=plan), None),
                            pipeline.epoch(test_source, batch=batch),
                            put=lambda b: jax.device_put(b, on_batch),
                            batches=-(-test_source.length // batch))
  known = label >= 0
  outcome = {"steps": steps, "loss": float(loss), "trained": int(sum(x.size for x in weights.values())),
             "arrays": len(weights), "fixed_arrays": len(fixed)}
  logging.info("fine-tuned %d arrays in %d steps, last loss %.4g", len(weights), steps, outcome["loss"])
  return float(np.mean(logits.argmax(-1)[known] == label[known])), outcome


def used(function: Callable[..., PyTree], *args: PyTree) -> list[bool]:
  """For every leaf of `args`, whether the result of `function` can depend on it. By the program and not by
  numbers: a gradient may be zero by chance, say behind a layer that starts at zero.

  Programs within the program (a scan, a nested jit) count as using everything that they are given.
  """
  program = jax.make_jaxpr(function)(*args).jaxpr
  is_variable = lambda x: not hasattr(x, "val")               # else a literal, which cannot be hashed
  alive = {v for v in program.outvars if is_variable(v)}
  for equation in reversed(program.eqns):
    if alive & set(equation.outvars):
      alive.update(filter(is_variable, equation.invars))
  return [v in alive for v in program.invars]


def translate(key: jax.Array, image: jax.Array, shift: int) -> jax.Array:
  """Images [B H W C], each moved by up to `shift` pixels along both axes; borders are repeated."""
  if not shift:
    return image
  padded = jnp.pad(image, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
  at = jax.random.randint(key, (len(image), 2), 0, 2 * shift + 1)
  return jax.vmap(lambda x, a: jax.lax.dynamic_slice(x, (a[0], a[1], 0), image.shape[1:]))(padded, at)


def _optimizer(plan: Plan) -> optax.GradientTransformation:
  rate = dict(kind="cosine", value=plan.lr, warmup=plan.warmup)
  return optim.make(name="adamw", lr=rate, weight_decay=plan.weight_decay, clip=plan.clip,
                    steps=plan.steps)[0]


def _keep(tree: PyTree, plan: Plan) -> PyTree:
  return tree if plan.sharding is None else jax.lax.with_sharding_constraint(tree, plan.sharding)


@functools.partial(jax.jit, static_argnames="plan")
def _start(weights: dict[str, jax.Array], plan: Plan) -> tuple[dict[str, jax.Array], PyTree]:
  return _keep((weights, _optimizer(plan).init(weights)), plan)


def _forward(weights: dict[str, jax.Array], fixed: dict[str, jax.Array], batch: Batch,
             plan: Plan) -> jax.Array:
  leaves = [weights[n] if n else fixed[str(i)] for i, n in enumerate(plan.trained)]
  x = plan.embed(*jax.tree.unflatten(plan.tree, leaves), batch).pooled.astype(jnp.float32)
  return x @ weights["head/kernel"] + weights["head/bias"]


_logits = functools.partial(jax.jit, static_argnames="plan")(_forward)


@functools.partial(jax.jit, static_argnames="plan", donate_argnums=(0, 1))
def _step(weights, opt, fixed, batch, draw, *, plan):
  """One update; (weights, optimizer state, loss). `draw`: uint32 [2], seed and step."""
  image = translate(jax.random.fold_in(jax.random.key(draw[0]), draw[1]), batch["image"], plan.shift)

  def loss_of(weights):
    logits = _forward(weights, fixed, {**batch, "image": image}, plan)
    known = (batch["label"] >= 0).astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch["label"], 0))
    return (each * known).sum() / jnp.maximum(known.sum(), 1)

  loss, grads = jax.value_and_grad(loss_of)(weights)
  updates, opt = _optimizer(plan).update(grads, opt, weights)
  return *_keep((optax.apply_updates(weights, updates), opt), plan), loss
