"""Evaluates a state: features of both splits, the evaluators by name, and the floors (raw pixels, the same
encoder untrained) beside every number. The train loop calls it at intervals and at the end, jepa.evaluate
from the command line.

It knows evaluators, alarms, pages and pictures by name only: what a run does not ask for is not imported.
"""
from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
import time
from types import ModuleType
from typing import Any

from absl import logging
import jax
import numpy as np

from jepa import config as configs, experiment, logs, sharding
from jepa.data.source import Source, sequences
from jepa.evals import features as F, results
from jepa.evals.results import PIXELS, TRAINED, UNTRAINED
from jepa.experiment import Experiment
from jepa.types import TrainState

MADE = 5_000      # examples of a split that are evaluated where they are made on demand, as many as one likes


def run(names: Sequence[str], features_by_row: Mapping[str, F.FeatureSet], *, seed: int,
        protocol: Mapping[str, Any] | Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, Any] | None = None) -> list[results.Row]:
  """Every named evaluator on every row.

  Args:
    names: files of jepa/evals, or dotted names in other repositories.
    features_by_row: e.g. {"raw pixels": ..., "untrained encoder": ..., "trained encoder": ...}.
    seed: of splits and labelled subsets; the same for every row, so rows differ by their features alone.
    protocol: goes into every result: data and split descriptions, which features, method, step, training
      seed. A dict keyed by row names gives each row its own.
    settings: keyword arguments by evaluator, as config.eval.args has them: {"knn": {"k": 5}}; those of
      "my.probe" are {"my": {"probe": ...}}.

  Raises:
    ValueError: unknown evaluator or setting, rows with different labels, non-finite features, too few labels.
  """
  settings = settings or {}
  module_of = lambda name: configs.module(name, "jepa.evals", "evaluate")
  modules = [module_of(name) for name in names]
  for key in settings.keys() - {name.partition(".")[0] for name in names}:
    if not importlib.util.find_spec(key):       # a package: the config's other list may name one of its files
      module_of(key)
  base = next(iter(features_by_row.values()), None)
  for row, features in features_by_row.items():
    F.check(features, row=row)
    if not (np.array_equal(features.train_y, base.train_y) and np.array_equal(features.test_y, base.test_y)):
      raise ValueError(f"{row}: its labels differ from those of {next(iter(features_by_row))}; rows of one "
                       "table must hold the same examples in the same order")
  rows = []
  for row, features in features_by_row.items():
    own = protocol.get(row, {}) if set(features_by_row) & set(protocol) else protocol
    for name, module in zip(names, modules):
      if why := _missing(module, features):
        logging.info("%s: %s skipped, since %s", row, name, why)
        continue
      start = time.monotonic()
      args = functools.reduce(lambda tree, part: tree.get(part, {}), name.split("."), settings)
      rows += configs.call(module.evaluate, f"config.eval.args.{name}", features=features, row=row, seed=seed,
                           protocol=own | {"evaluator": name}, **args)
      logging.info("%s: %s in %.1f s", row, name, time.monotonic() - start)
  return rows


def _missing(module: ModuleType, features: F.FeatureSet) -> str:
  """Why an evaluator cannot measure a row; "" where it can."""
  labels = (features.train_y >= 0).any() and (features.test_y >= 0).any()
  if getattr(module, "LABELS", False) and not labels:
    return "the source has no labels"
  return module.missing(features) if hasattr(module, "missing") else ""


# ---- rows of a run ----

def features_of(exp: Experiment, state: TrainState, train: Source, test: Source) -> F.FeatureSet:
  """Frozen features of both splits."""
  subject = _subject(exp, train, test, method=exp.method, params=state.params, extra=state.extra,
                     world=exp.world)
  extract = functools.partial(F.extract, subject, pool=exp.config["eval"]["pool"])
  return F.FeatureSet(*extract(train), *extract(test), subject)


def _subject(exp: Experiment, train: Source, test: Source, **encoder: Any) -> F.Subject:
  """Of an encoder, or of raw pixels."""
  pieces = exp.mesh.shape["data"] * exp.mesh.shape["fsdp"]
  embed = functools.partial(jax.eval_shape, exp.method.embed, exp.abstract.params, exp.abstract.extra)
  return F.Subject(
      train, test, **encoder, tokens=lambda: embed(exp.batch).tokens.shape[1], pieces=pieces,
      batch=-(-exp.config["eval"]["batch"] // pieces) * pieces,
      shardings=(sharding.replicated(exp.mesh), sharding.of_batch(exp.mesh)),
      reopen=lambda **args: tuple(experiment.open_source(exp.config["data"], split, **args)
                                  for split in ("train", "test")))


def floors(exp: Experiment, train: Source, test: Source) -> dict[str, F.FeatureSet]:
  """Raw pixels (of images, not of trajectories), and the same encoder untrained (the state at step 0 of this
  seed)."""
  untrained = {UNTRAINED: features_of(exp, experiment.initial_state(exp), train, test)}
  if sequences(train):
    return untrained
  return {PIXELS: F.FeatureSet(*F.pixels(train), *F.pixels(test), _subject(exp, train, test))} | untrained


def protocol(exp: Experiment, train: Source, test: Source, step: int) -> dict:
  """What a number was measured on; stored beside it."""
  return {"train": train.describe, "test": test.describe,
          "features": f"{exp.config['eval']['pool']}, encoder frozen", "seed": exp.config["seed"],
          "step": step, "method": exp.config["method"]}


# ---- what the loop calls ----

def online(exp: Experiment,
           workdir: Path) -> Callable[[TrainState, int, dict], tuple[dict[str, float], list[str]]]:
  """probe(state, step, metrics of training) -> (scalars for the log, alarms). Floors are measured once and
  kept in the workdir."""
  settings = exp.config["eval"]
  names = list(settings["online"])
  if not names:
    return lambda state, step, metrics: ({}, [])
  train, test = (F.limited(s, settings["train_limit"]) for s in (exp.train, exp.test))
  cached_floors(exp, workdir, names, train, test)

  def probe(state, step, metrics):
    rows = run(names, {TRAINED: features_of(exp, state, train, test)}, seed=exp.config["seed"],
               protocol=protocol(exp, train, test, step), settings=settings["args"])
    return {f"eval/{r['metric']}": r["mean"] for r in rows}, alarms(rows, settings, metrics)
  return probe


def cached_floors(exp: Experiment, workdir: Path, names: Sequence[str], train: Source,
                  test: Source) -> list[results.Row]:
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
  rows = run(names, floors(exp, train, test), seed=exp.config["seed"], protocol=protocol(exp, train, test, 0),
             settings=exp.config["eval"]["args"])
  logs.write_json(path, {"mark": mark, "rows": rows})
  return rows


def alarms(rows: Sequence[results.Row], settings: Mapping[str, Any],
           metrics: Mapping[str, float] | None = None) -> list[str]:
  """What is collapsing, if anything, by the trained rows and by the method's own metrics.
  settings: config.eval."""
  stats = {r["metric"]: r["mean"] for r in rows if r["row"] == TRAINED} | dict(metrics or {})
  return configs.module("collapse", "jepa.evals", "alarms").alarms(stats, levels=settings.get("levels"))


def final(exp: Experiment, state: TrainState, workdir: Path, names: Sequence[str] = ()) -> list[str]:
  """All evaluations, with their floors unless config.eval.floors is off: prints the table, writes
  results.json and the report; returns alarms."""
  workdir, names = Path(workdir), list(names or exp.config["eval"]["final"])
  train, test = (F.limited(s, MADE) if s.generate else s for s in (exp.train, exp.test))
  by_row = floors(exp, train, test) if exp.config["eval"].get("floors", True) else {}
  by_row |= {TRAINED: features_of(exp, state, train, test)}
  rows = run(names, by_row, seed=exp.config["seed"], settings=exp.config["eval"]["args"],
             protocol=protocol(exp, train, test, int(state.step)))
  by_row = {row: f._replace(subject=None) for row, f in by_row.items()}      # frees the untrained weights
  report = lambda name: configs.module(name, "jepa.reports", "write").write
  if jax.process_index() == 0:
    results.save(rows, workdir / "results.json")
    print(results.table(rows), flush=True)
    if picture := report("open_loop")(rows, workdir / "figures" / "open_loop.png", row=TRAINED):
      print(f"picture: {picture}", flush=True)
  # Its images go over the mesh, so every process takes part.
  if exp.config["eval"]["report"] and (page := report("run")(exp, state, workdir, rows, by_row)):
    print(f"report: {page}", flush=True)
  return alarms(rows, exp.config["eval"])
