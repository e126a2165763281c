"""Open-loop prediction: a world model imagines recorded episodes, held-out ones too, from one frame and their
actions.

From a window's first frame z^_0 = encode(o_0), z^_h = predict(z^_h-1, a_h-1), h = 1 ... H, against
z_h = encode(o_h):

  open_loop              mean over windows of distance(z^_h, z_h)
  open_loop_still        distance(z_0, z_h): nothing moves
  open_loop_mean_motion  distance(z_0 + h m, z_h), m the mean of z_t+1 - z_t over training windows
  open_loop_shuffled     as the first, with the actions of another window

each divided by "open_loop_unrelated", the mean distance of encoded frames of unrelated windows, so that a
collapsed model is not called exact: 1 is as wrong as another frame. Where positions are recorded, in their
units,

  position_error...      mean Euclidean distance of probe(z^_h) and the position, the probe a ridge regression
                         from encoded states of training windows; the same four, and position_error_encoded,
                         its own error

A result's value is that of the last step H; those of all steps are in protocol["outcome"]["by_step"].

Distances are those of the model (squared ones for PLDM and LeWM), so compare a row with its own floors. A
latent state is any pytree of arrays [B ...].

Shape letters: B windows, T frames, H = T - 1 steps, D width, P position.
"""
from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from jepa.data import order
from jepa.data.source import Source, sequences, steps
from jepa.evals import features as F, results
from jepa.types import Extra, Params, PyTree, WorldModel

VERSION = 1
MODEL, STILL, MOTION, SHUFFLED, ENCODED = "", "_still", "_mean_motion", "_shuffled", "_encoded"
KINDS = {MODEL: "imagined", STILL: "nothing moves", MOTION: "mean motion",
         SHUFFLED: "actions of another window", ENCODED: "encoded"}
TITLES = {STILL: "still", MOTION: "mean motion", SHUFFLED: "other actions", ENCODED: "frame seen"}
COLUMNS = (("open_loop", "open loop", "(1: unrelated)", "number"),
           *((f"open_loop{kind}", "open loop", title, "number") for kind, title in TITLES.items()),
           ("position_error", "position", "(probe)", "number"),
           *((f"position_error{kind}", "position", title, "number") for kind, title in TITLES.items()))
ORDER = 7
LABELS = False
WIDEST = 4096                       # numbers a state that the probe reads at most
PENALTIES = tuple(10.0 ** np.arange(-2, 5))


class Curves(NamedTuple):
  """What was measured, by kind; f32 [H]."""

  distance: dict[str, np.ndarray]   # in units of `unrelated`; empty where that is 0
  position: dict[str, np.ndarray]   # empty where there is no probe
  unrelated: float                  # mean distance of unrelated encoded frames
  notes: list[str]                  # what was left out, and why
  outcome: dict[str, Any]           # what the probe came to


def missing(features: F.FeatureSet) -> str:
  """Why nothing can be imagined; "" where it can."""
  of = features.subject
  there = of and of.world and sequences(of.train)
  return "" if there else "it needs a method with a world_model and trajectories"


def evaluate(features: F.FeatureSet, *, row: str, seed: int, protocol: Mapping[str, Any] | None = None,
             windows: int = 512, length: int = 0, chunk: int = 32) -> list[results.Row]:
  """A row for every kind of curve; see the module's docstring.

  Args:
    windows: of each split at most. length: frames a window, T; 0: as in training.
    chunk: windows a compiled call.

  Raises:
    ValueError: what is `missing`, or fewer than two windows.
  """
  if why := missing(features):
    raise ValueError(f"{row}: no open loop, since {why}")
  of = features.subject
  train, test = of.reopen(length=length) if length else (of.train, of.test)
  jit = functools.partial(jax.jit, out_shardings=of.shardings[0])
  curves = measure(of.world, of.params, of.extra, train, test, windows=windows, seed=seed, chunk=chunk,
                   jit=jit)
  for note in curves.notes:
    logging.info("%s: open loop: %s", row, note)
  record = {**(protocol or {}), "version": VERSION, "eval_seed": seed, "split": "test",
            "settings": {"windows": windows, "length": length, "chunk": chunk, "penalties": list(PENALTIES)}}
  outcome = {"notes": curves.notes, **curves.outcome}
  rows = [results.result(row, "open_loop_unrelated", curves.unrelated, record | {"outcome": outcome})]
  for metric, found in (("open_loop", curves.distance), ("position_error", curves.position)):
    for kind, values in found.items():
      if not np.isfinite(values).all():
        logging.warning("%s: %s diverged: left out", row, metric + kind)
        continue
      rows.append(results.result(row, metric + kind, values[-1], record | {
          "outcome": outcome | {"by_step": [float(v) for v in values]}}))
  return rows


def measure(model: WorldModel, params: Params, extra: Extra, train: Source, test: Source, *, windows: int,
            seed: int, chunk: int = 32, jit: Callable = jax.jit) -> Curves:
  """Curves over `windows` random windows of `test`; probe and mean motion are of as many of `train`.

  Args:
    model: takes actions as they are recorded.
    windows: cut to a multiple of `chunk`, which is how many a compiled call takes.

  Raises:
    ValueError: fewer than two windows.
  """
  known, asked = _draw(train, windows, chunk, seed), _draw(test, windows, chunk, seed + 1)
  take, take_test = _taker(train), _taker(test)
  encode = lambda params, extra, image: _split(
      model.encode(params, extra, image.reshape(-1, *image.shape[2:])), image.shape[:2])
  image = take(known[0])["image"]
  example = jax.device_get(jit(encode)(params, extra, image))
  notes = [] if all(np.issubdtype(x.dtype, np.floating) for x in jax.tree.leaves(example)) else [
      "no mean motion: a part of the state is no float"]
  moves, read, positions = not notes, newest(example), "position" in take_test(asked[0])
  width = jax.eval_shape(lambda z: read(_joined(z)), example).shape[-1]
  if not positions or not 0 < width <= WIDEST:
    notes.append(f"no probe: it would read {width} numbers of a state" if positions else
                 "no probe: no positions are recorded")
    positions, read = False, lambda z: jnp.zeros((len(jax.tree.leaves(z)[0]), 0))
  reads = lambda z: read(_joined(z)).reshape(*jax.tree.leaves(z)[0].shape[:2], -1)

  # 1. Training windows: the mean motion, and what the probe reads.
  @jit
  def learn(params, extra, image):
    z = encode(params, extra, image)
    return reads(z), jax.tree.map(lambda x: (x[:, 1:] - x[:, :-1]).mean((0, 1)), z) if moves else ()

  # 2. Held-out windows: encoded and imagined states, [b H ...], their distances, and what the probe reads.
  @jit
  def imagine(params, extra, motion, image, action):
    z = encode(params, extra, image)
    first, later = jax.tree.map(lambda x: x[:, 0], z), jax.tree.map(lambda x: x[:, 1:], z)
    other = lambda tree: jax.tree.map(lambda x: jnp.roll(x, 1, 0), tree)        # windows are in random order

    def run(action):
      def step(z, a):
        z = model.predict(params, extra, z, a)
        return z, z
      return jax.tree.map(lambda x: x.swapaxes(0, 1), jax.lax.scan(step, first, action.swapaxes(0, 1))[1])
    still = jax.tree.map(lambda x, y: jnp.broadcast_to(x[:, None], y.shape), first, later)
    states = {MODEL: run(action), STILL: still, SHUFFLED: run(other(action))}
    if moves:
      count = lambda x: jnp.arange(1, x.shape[1] + 1).reshape(-1, *[1] * (x.ndim - 2))
      states[MOTION] = jax.tree.map(lambda x, m: x + count(x) * m, still, motion)
    distance = jax.vmap(model.distance, 1, 1)
    elsewhere = jax.tree.map(lambda x: jnp.roll(x, 1, 1), other(z))             # and at another time
    return ({k: distance(s, later) for k, s in states.items()}, distance(z, elsewhere).mean(),
            {k: reads(s) for k, s in (states | {ENCODED: later}).items()})

  pieces, found, y, truth = [], [], [], []
  for i in known:
    batch = take(i)
    pieces.append(jax.device_get(learn(params, extra, batch["image"])))
    y.append(batch.get("position"))
  motion = jax.tree.map(lambda *x: np.mean(x, 0), *[m for _, m in pieces])
  for i in asked:
    batch = take_test(i)
    found.append(jax.device_get(imagine(params, extra, motion, batch["image"], batch["action"])))
    truth.append(batch.get("position"))
  unrelated = float(np.mean([u for _, u, _ in found]))
  distance = {k: np.concatenate([d[k] for d, *_ in found]).mean(0) for k in found[0][0]}
  distance = {k: v / unrelated for k, v in distance.items()} if unrelated else {}
  if not unrelated:
    notes.append("no distances: all encoded states are one point")
  if not positions:
    return Curves(distance, {}, unrelated, notes, {})

  # 3. Positions, read by the probe.
  x, y, truth = np.concatenate([x for x, _ in pieces]), np.concatenate(y), np.concatenate(truth)[:, 1:]
  probe, penalty = ridge(x.reshape(-1, width), y.reshape(-1, y.shape[-1]))
  told = lambda k: probe(np.concatenate([r[k] for *_, r in found]).reshape(-1, width)).reshape(truth.shape)
  error = {k: np.linalg.norm(told(k) - truth, axis=-1).mean(0) for k in found[0][2]}
  return Curves(distance, error, unrelated, notes, {"probe_penalty": penalty})


def _draw(source: Source, windows: int, chunk: int, seed: int) -> np.ndarray:
  """Random windows, int [number of chunks, chunk]."""
  count = min(windows, source.length)
  chunk = min(chunk, count)
  if chunk < 2:
    raise ValueError(f"{source.describe}: open-loop evaluation needs two windows at least "
                     "(config.eval.args.open_loop)")
  return order.shuffled(source.length, seed)[:count - count % chunk].reshape(-1, chunk)


def _taker(source: Source) -> Callable[[np.ndarray], dict[str, Any]]:
  """Windows by number: of a recording, or made now."""
  if source.generate is None:
    return lambda index: {k: source.arrays[k][index] for k in ("image", *steps(source))}
  generate = jax.jit(jax.vmap(source.generate))
  return lambda index: jax.device_get(generate(source.arrays["index"][index]))


_joined = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
_split = lambda tree, shape: jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)


def newest(states: PyTree) -> Callable[[PyTree], jax.Array]:
  """A function from states [B ...] to what a probe reads, f32 [B D]: the leaves that depend on the frame,
  side by side; of a history, which encoding one frame fills with it, the last entry.

  Args:
    states: encoded ones, [B T ...].
  """
  kinds = []
  for x in jax.tree.leaves(states):
    x = x.reshape(-1, *x.shape[2:])
    constant = (x == x[:1]).all()
    history = x.ndim > 2 and x.shape[1] > 1 and (x == x[:, :1]).all()
    kinds.append("constant" if constant else "history" if history else "whole")

  def read(tree: PyTree) -> jax.Array:
    parts = [x[:, -1] if kind == "history" else x for x, kind in zip(jax.tree.leaves(tree), kinds)
             if kind != "constant"]
    parts = [x.reshape(len(x), -1).astype(jnp.float32) for x in parts]
    return jnp.concatenate(parts, -1) if parts else jnp.zeros((len(jax.tree.leaves(tree)[0]), 0))
  return read


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
  """(probe, penalty) of standardised [N D] onto standardised [N P]; the penalty has the least leave-one-out
  error."""
  from sklearn.linear_model import RidgeCV
  varies = lambda v: v.std(0) > 1e-6 * np.maximum(1e-6, np.abs(v.mean(0)))
  of = lambda v: (v.mean(0), np.where(varies(v), v.std(0), 1.0))
  (mx, sx), (my, sy) = of(x), of(y)
  with threadpool_limits(1, user_api="blas"):       # OpenBLAS threads wait by spinning
    fit = RidgeCV(PENALTIES).fit((x - mx) / sx, (y - my) / sy)
  weights, offset = fit.coef_.reshape(y.shape[1], -1).T, fit.intercept_
  return lambda v: ((v - mx) / sx @ weights + offset) * sy + my, float(fit.alpha_)
