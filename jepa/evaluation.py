"""Evaluates a state: features of both splits, the evaluators by name, and the floors (raw pixels, the same
encoder untrained) beside every number. The train loop calls it at intervals and at the end, jepa.evaluate
from the command line.
"""
from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jepa import experiment, logs, sharding
from jepa.data import sources
from jepa.evals import collapse, features as feature_lib, finetune, open_loop, segment, suite
from jepa.evals.suite import PIXELS, TRAINED, UNTRAINED
from jepa.experiment import Experiment
from jepa.types import TrainState

MADE = 5_000      # examples of a split that are evaluated where they are made on demand, as many as one likes


def features_of(exp: Experiment, state: TrainState, train: sources.Source, test: sources.Source,
                names: Sequence[str] = ()) -> feature_lib.FeatureSet:
  """Frozen features of both splits, and what those of the evaluators `names` need beside them."""
  on_batch = sharding.of_batch(exp.mesh)
  embed = jax.jit(exp.method.embed, out_shardings=sharding.replicated(exp.mesh))
  params, extra = state.params, state.extra         # closures may outlive the state; its optimizer need not
  extract = functools.partial(feature_lib.extract, lambda b: embed(params, extra, b), batch=_batch(exp),
                              pool=exp.config["eval"]["pool"], put=lambda b: jax.device_put(b, on_batch))
  found = feature_lib.FeatureSet(*extract(train), *extract(test))
  if "segment" in names and (grid := _grid(exp, train, test)):
    flat = functools.partial(extract, pool="flat")
    of = lambda part: flat(part)[0].reshape(part.length, grid ** 2, -1)
    found = found._replace(tokens=functools.partial(_tokens, of, grid, train, test))
  if "finetune" in names:
    found = found._replace(tune=functools.partial(_tune, exp, params, extra, train, test))
  if "open_loop" in names and experiment.has_world_model(exp) and trajectories(train):
    found = found._replace(imagine=functools.partial(_imagine, exp, params, extra, train, test))
  return found


def trajectories(source: sources.Source) -> bool:
  """Whether its examples are frames in a row."""
  return len(source.shape) == 4


def _batch(exp: Experiment, wanted: int | None = None) -> int:
  """A batch, by default that of evaluation, rounded up to what the mesh splits evenly."""
  pieces = exp.mesh.shape["data"] * exp.mesh.shape["fsdp"]
  return -(-(wanted or exp.config["eval"]["batch"]) // pieces) * pieces


def _grid(exp: Experiment, train: sources.Source, test: sources.Source) -> int:
  """Cells a side of the encoder's tokens; 0 where there are no masks, or no square grid to lay over them."""
  if any(s.arrays is None or "mask" not in s.arrays or s.shape[0] != s.shape[1] for s in (train, test)):
    return 0
  count = jax.eval_shape(exp.method.embed, exp.abstract.params, exp.abstract.extra, exp.batch).tokens.shape[1]
  side = round(count ** 0.5)
  return side if side * side == count and side <= train.shape[0] else 0


def _tokens(of: Callable[[sources.Source], np.ndarray], grid: int, train: sources.Source,
            test: sources.Source, *, images: int, seed: int) -> feature_lib.TokenSet:
  """Tokens, and labels of the cells, of at most so many images of each split."""
  found = []
  for source in (train, test):
    part = _limited(source, images, seed)
    found += [of(part), segment.cells(part.arrays["mask"], grid)]
  return feature_lib.TokenSet(*found)


def _tune(exp: Experiment, params, extra, train: sources.Source, test: sources.Source, *, batch: int,
          **settings) -> tuple[float, dict]:
  """Fine-tunes on the mesh: the state on every device, batches split."""
  return finetune.train(exp.method.embed, params, extra, train, test, batch=_batch(exp, batch), **settings,
                        shardings=(sharding.replicated(exp.mesh), sharding.of_batch(exp.mesh)))


def _imagine(exp: Experiment, params, extra, train: sources.Source, test: sources.Source, *, length: int,
             **settings) -> open_loop.Curves:
  """Open loop on windows of the run's sources, or of another length."""
  if length:
    data = exp.config["data"]
    train, test = (sources.load(data["source"], data[s], **(data["args"] | {"length": length}))
                   for s in ("train", "test"))
  jit = functools.partial(jax.jit, out_shardings=sharding.replicated(exp.mesh))
  return open_loop.measure(experiment.world_model(exp), params, extra, train, test, jit=jit, **settings)


def floors(exp: Experiment, train: sources.Source, test: sources.Source,
           names: Sequence[str] = ()) -> dict[str, feature_lib.FeatureSet]:
  """Raw pixels (of images, not of trajectories), and the same encoder untrained (the state at step 0 of this
  seed)."""
  untrained = {UNTRAINED: features_of(exp, experiment.initial_state(exp), train, test, names)}
  if trajectories(train):
    return untrained
  pixels = feature_lib.FeatureSet(*feature_lib.pixels(train), *feature_lib.pixels(test))
  if "segment" in names and (grid := _grid(exp, train, test)):
    of = lambda part: segment.pixels(part.arrays["image"], grid)
    pixels = pixels._replace(tokens=functools.partial(_tokens, of, grid, train, test))
  return {PIXELS: pixels} | untrained


def protocol(exp: Experiment, train: sources.Source, test: sources.Source, step: int) -> dict:
  """What a number was measured on; stored beside it."""
  return {"train": train.describe, "test": test.describe,
          "features": f"{exp.config['eval']['pool']}, encoder frozen", "seed": exp.config["seed"],
          "step": step, "method": exp.config["method"]}


def online(exp: Experiment,
           workdir: Path) -> Callable[[TrainState, int, dict], tuple[dict[str, float], list[str]]]:
  """probe(state, step, metrics of training) -> (scalars for the log, alarms). Floors are measured once and
  kept in the workdir."""
  settings = exp.config["eval"]
  names = list(settings["online"])
  if not names:
    return lambda state, step, metrics: ({}, [])
  train, test = _limited(exp.train, settings["train_limit"]), _limited(exp.test, settings["train_limit"])
  run = functools.partial(suite.run, names, seed=exp.config["seed"], settings=settings["args"])
  cached_floors(exp, workdir, names, train, test)

  def probe(state, step, metrics):
    rows = run({TRAINED: features_of(exp, state, train, test, names)},
               protocol=protocol(exp, train, test, step))
    return {f"eval/{r['metric']}": r["mean"] for r in rows}, alarms(rows, settings, metrics)
  return probe


def cached_floors(exp: Experiment, workdir: Path, names: Sequence[str], train, test) -> list[dict]:
  """Rows of raw pixels and the untrained encoder, from floors.json where they were measured under the same
  settings."""
  path = Path(workdir) / "floors.json"
  record = protocol(exp, train, test, 0) | {"names": list(names), "args": exp.config["args"],
                                            "eval": exp.config["eval"]["args"]}
  mark = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
  if path.exists():
    saved = json.loads(path.read_text())
    if saved.get("mark") == mark:
      return saved["rows"]
  rows = suite.run(list(names), floors(exp, train, test, names), seed=exp.config["seed"],
                   protocol=protocol(exp, train, test, 0), settings=exp.config["eval"]["args"])
  logs.write_json(path, {"mark": mark, "rows": rows})
  return rows


def alarms(rows: list[dict], settings: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> list[str]:
  """What is collapsing, if anything, by the trained rows and by the method's own metrics. settings: config.eval."""
  stats = {r["metric"]: r["mean"] for r in rows if r["row"] == TRAINED}
  return collapse.alarms(stats | dict(metrics or {}), levels=settings.get("levels"))


def final(exp: Experiment, state: TrainState, workdir: Path, names: Sequence[str] = ()) -> list[str]:
  """All evaluations, with their floors unless config.eval.floors is off: prints the table, writes results.json
  and the report; returns alarms."""
  workdir, names = Path(workdir), list(names or exp.config["eval"]["final"])
  train, test = (_limited(s, MADE) if s.generate else s for s in (exp.train, exp.test))
  by_row = floors(exp, train, test, names) if exp.config["eval"].get("floors", True) else {}
  by_row |= {TRAINED: features_of(exp, state, train, test, names)}
  rows = suite.run(names, by_row, seed=exp.config["seed"], settings=exp.config["eval"]["args"],
                   protocol=protocol(exp, train, test, int(state.step)))
  if jax.process_index() == 0:
    suite.save(rows, workdir / "results.json")
    print(suite.table(rows), flush=True)
    if picture := open_loop.draw(rows, workdir / "figures" / "open_loop.png", row=TRAINED):
      print(f"picture: {picture}", flush=True)
    if exp.config["eval"]["report"]:
      from jepa import pictures
      print(f"report: {pictures.report(exp, state, workdir, rows, by_row)}", flush=True)
  return alarms(rows, exp.config["eval"])


def _limited(source: sources.Source, limit: int, seed: int = 0) -> sources.Source:
  """A fixed random subset of a source: for evaluations during training, or of many tokens an image."""
  if not limit or limit >= source.length:
    return source
  index = np.sort(np.random.default_rng(seed).permutation(source.length)[:limit])
  arrays = source.arrays and {k: v[index] for k, v in source.arrays.items()}
  return source._replace(length=limit, get=lambda i: source.get(int(index[i])), arrays=arrays,
                         describe=f"{source.describe}, {limit} of them at random (seed {seed})")
