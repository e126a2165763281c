"""Runs evaluators by name over the rows of a table, prints the table, keeps results.json.

A result is {"row", "metric", "mean", "sd", "seeds", "protocol"}: what was evaluated (raw pixels, untrained
encoder, trained encoder), which number, over how many independent draws or runs, and everything one must hold
fixed to compare it with another. protocol["outcome"] is what came out beside the number (penalty chosen,
iterations), and no condition.
"""
from collections.abc import Mapping, Sequence
import difflib
import json
import os
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from jepa.evals import collapse, features as F, finetune, knn, linear, open_loop, segment

PIXELS, UNTRAINED, TRAINED = "raw pixels", "untrained encoder", "trained encoder"
ROWS = (PIXELS, UNTRAINED, TRAINED)

EVALUATORS = {"linear": linear.probe, "lowshot": linear.lowshot, "knn": knn.evaluate,
              "segment": segment.evaluate, "finetune": finetune.evaluate, "collapse": collapse.evaluate,
              "open_loop": open_loop.evaluate}
LABELLED = {"linear", "lowshot", "knn", "finetune"}         # the others need no labels
# What some need beside features: a field of the FeatureSet, and why a row may lack it.
NEEDS = {"segment": ("tokens", "it needs a source with masks and tokens on a square grid"),
         "finetune": ("tune", "there is no encoder to train"),
         "open_loop": ("imagine", "it needs a method with a world_model and trajectories")}

# Columns of the table: metric, two lines of title, how to write a value.
COLUMNS = (("linear", "linear probe", "(all labels)", "percent"),
           ("lowshot", "linear probe", "(10 labels a class)", "percent"),
           ("knn", "kNN", "", "percent"), ("segment", "segmentation", "(patch mIoU)", "percent"),
           ("finetune", "fine-tune", "(all labels)", "percent"), ("rankme", "RankMe", "", "number"),
           ("std", "mean feature", "std", "number"), ("open_loop", "open loop", "(1: unrelated)", "number"),
           *((f"open_loop{kind}", "open loop", title, "number") for kind, title in open_loop.TITLES.items()),
           ("position_error", "position", "(probe)", "number"),
           *((f"position_error{kind}", "position", title, "number") for kind, title in open_loop.TITLES.items()))

# Differences between two runs that leave their numbers comparable: seeds, when and where it ran, the outcome.
FREE = {"seed", "eval_seed", "seeds", "step", "path", "paths", "workdir", "checkpoint", "outcome",
        "git", "time", "hardware"}


def run(names: Sequence[str], features_by_row: Mapping[str, F.FeatureSet], *, seed: int,
        protocol: Mapping[str, Any] | Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, Mapping[str, Any]] | None = None) -> list[F.Row]:
  """Every named evaluator on every row.

  Args:
    names: of EVALUATORS.
    features_by_row: e.g. {"raw pixels": ..., "untrained encoder": ..., "trained encoder": ...}.
    seed: of splits and labelled subsets; the same for every row, so rows differ by their features alone.
    protocol: goes into every result: data and split descriptions, which features, method, step, training
      seed. A dict keyed by row names gives each row its own.
    settings: keyword arguments by evaluator, e.g. {"knn": {"k": 5}}.

  Raises:
    ValueError: unknown evaluator or setting, rows with different labels, non-finite features, too few labels.
  """
  settings = settings or {}
  for name in (*names, *settings):
    known(name)
  base = next(iter(features_by_row.values()), None)
  for row, features in features_by_row.items():
    F.check(features, row=row)
    if not (np.array_equal(features.train_y, base.train_y) and np.array_equal(features.test_y, base.test_y)):
      raise ValueError(f"{row}: its labels differ from those of {next(iter(features_by_row))}; rows of one "
                       "table must hold the same examples in the same order")
  rows = []
  for row, features in features_by_row.items():
    own = protocol.get(row, {}) if set(features_by_row) & set(protocol) else protocol
    for name in names:
      if name in LABELLED and not ((features.train_y >= 0).any() and (features.test_y >= 0).any()):
        logging.info("%s: %s skipped, since the source has no labels", row, name)
        continue
      needed, why = NEEDS.get(name, ("train_x", ""))
      if getattr(features, needed) is None:
        logging.info("%s: %s skipped, since %s", row, name, why)
        continue
      start = time.monotonic()
      try:
        rows += EVALUATORS[name](features, row=row, seed=seed, protocol=own, **settings.get(name, {}))
      except TypeError as error:
        if "unexpected keyword" not in str(error):
          raise
        raise ValueError(f"evaluator {name!r}: {error}") from error
      logging.info("%s: %s in %.1f s", row, name, time.monotonic() - start)
  return rows


def known(name: str) -> str:
  """`name`, if it is an evaluator's.

  Raises:
    ValueError: it is not; lists those that are and suggests the nearest.
  """
  if name not in EVALUATORS:
    near = difflib.get_close_matches(name, EVALUATORS, 1)
    raise ValueError(f"unknown evaluator {name!r}{f'; did you mean {near[0]!r}?' if near else ''} "
                     f"(known: {', '.join(EVALUATORS)})")
  return name


def latest(rows: Sequence[F.Row]) -> dict[tuple[str, str], F.Row]:
  """(row, metric) -> its result at the largest step; results without a step count as the last."""
  found = {}
  for r in rows:
    at = (r["row"], r["metric"])
    if at not in found or _step(r) >= _step(found[at]):
      found[at] = r
  return found


def _step(row: F.Row) -> float:
  step = row["protocol"].get("step")
  return float("inf") if step is None else step


def columns(rows: Sequence[F.Row]) -> tuple[tuple[str, str, str, str], ...]:
  """Those of COLUMNS that some row has a number for."""
  found = {r["metric"] for r in rows}
  return tuple(c for c in COLUMNS if c[0] in found)


def cells(
    rows: Sequence[F.Row],
    shown: Sequence[tuple[str, str, str, str]] = COLUMNS,
) -> tuple[list[tuple[str, str]], list[tuple[str, list[str], list[float | None]]]]:
  """The table as data: titles of the columns `shown` (two lines each), and (row name, texts, means) in the
  order of ROWS, then others.
  """
  by = latest(rows)
  names = [r for r in ROWS if any(r == a for a, _ in by)] + sorted({r for r, _ in by} - set(ROWS))
  titles = []
  for metric, first, second, _ in shown:
    if metric == "lowshot":
      counts = {r["protocol"]["settings"]["labels"] for (_, m), r in by.items() if m == metric} or {10}
      second = f"({'/'.join(map(str, sorted(counts)))} labels a class)"
    titles.append((first, second))
  lines = []
  for name in names:
    found = [by.get((name, metric)) for metric, *_ in shown]
    lines.append((name, [_cell(r, kind) for r, (*_, kind) in zip(found, shown)],
                  [r and r["mean"] for r in found]))
  return titles, lines


def _cell(row: F.Row | None, kind: str) -> str:
  if row is None:
    return "-"
  scale = 100 if kind == "percent" else 1
  mean, sd = row["mean"] * scale, row["sd"] * scale
  form = ".1f" if kind == "percent" or abs(mean) >= 10 else ".3g"
  return f"{mean:{form}}" + (f" ± {sd:.1f}" if row["seeds"] > 1 and kind == "percent" else
                             f" ± {sd:.2g}" if row["seeds"] > 1 else "")


def table(rows: Sequence[F.Row]) -> str:
  """The results as fixed-width text: accuracies in %, ± one standard deviation where there is more than one
  draw or run. Without the columns that no row has a number for.
  """
  titles, lines = cells(rows, columns(rows))
  titles = [("", "")] + titles
  body = [[name, *texts] for name, texts, _ in lines]
  widths = [max(len(t) for t in (*title, *(line[i] for line in body))) for i, title in enumerate(titles)]
  def line(texts):
    return "  ".join(t.ljust(w) if i == 0 else t.rjust(w)
                     for i, (t, w) in enumerate(zip(texts, widths))).rstrip()
  head = [line([t[0] for t in titles]), line([t[1] for t in titles])]
  return "\n".join([*head, "-" * max(map(len, head)), *map(line, body)])


def load(path: str | os.PathLike) -> list[F.Row]:
  """The results in a results.json; [] where there is none.

  Raises:
    ValueError: the file is not a list of results.
  """
  path = Path(path)
  if not path.exists():
    return []
  try:
    rows = json.loads(path.read_text())
    keys = {"row", "metric", "mean", "sd", "seeds", "protocol"}
    if not isinstance(rows, list) or any(not keys <= set(r) for r in rows):
      raise ValueError("not a list of {row, metric, mean, sd, seeds, protocol}")
  except (ValueError, TypeError) as error:
    raise ValueError(f"{path} is not a results file ({error}); move it away and evaluate again") from error
  return rows


def save(rows: Sequence[F.Row], path: str | os.PathLike) -> list[F.Row]:
  """Merges into results.json and returns all of it; a result replaces the one of the same (row, metric,
  step).

  Atomic: a killed process leaves the old file or the new one. Only the first process writes.
  """
  path = Path(path)
  key = lambda r: (r["row"], r["metric"], r["protocol"].get("step"))
  merged = {key(r): r for r in (*load(path), *rows)}
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
      json.dump(list(merged.values()), file, indent=1, allow_nan=False, default=_plain)
      file.write("\n")
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  return list(merged.values())


def _plain(value: Any) -> Any:
  """NumPy and JAX scalars and paths as JSON values."""
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, "tolist"):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} in a protocol cannot be written as JSON: {value!r}")


def combine(runs: Sequence[Sequence[F.Row]]) -> list[F.Row]:
  """Mean and sd over runs (training seeds) of the same (row, metric), each run at its last step.

  Raises:
    ValueError: a result that a run lacks, or protocols that differ in anything but seeds, steps, paths and
    outcomes.
  """
  if not runs:
    raise ValueError("no runs to combine")
  tables = [latest(rows) for rows in runs]
  combined = []
  for at in dict.fromkeys(at for t in tables for at in t):
    missing = [i for i, t in enumerate(tables) if at not in t]
    if missing:
      raise ValueError(
          f"run {missing[0] + 1} of {len(runs)} has no {at[1]!r} of {at[0]!r}: a mean over some of "
          "the runs would not be comparable; evaluate it first")
    found = [t[at] for t in tables]
    first = _conditions(found[0]["protocol"])
    for i, other in enumerate(found[1:], 2):
      for path, a, b in _differences(first, _conditions(other["protocol"])):
        raise ValueError(f"{at[1]!r} of {at[0]!r}: protocols of run 1 and run {i} differ in {path}: {a!r} "
                         f"and {b!r}; only runs that differ in seeds, steps and paths can be averaged")
    steps = {r["protocol"].get("step") for r in found}
    if len(steps) > 1 and at[0] == TRAINED:
      logging.warning("%s of %s: the runs were evaluated at different steps %s", at[1], at[0],
                      sorted(map(str, steps)))
    seeds = [r["protocol"].get("seed") for r in found]
    if at[0] == TRAINED and None not in seeds and len(set(seeds)) < len(seeds):
      logging.warning("%s of %s: training seeds repeat %s, so these are not independent runs", at[1], at[0],
                      seeds)
    record = first | {"seed": seeds, "step": found[0]["protocol"].get("step"), "over": "runs"}
    combined.append(F.result(at[0], at[1], [r["mean"] for r in found], record))
  return combined


def _conditions(value: Any) -> Any:
  """A protocol without what may differ between runs, at any depth, in JSON's types."""
  if isinstance(value, Mapping):
    return {k: _conditions(v) for k, v in value.items() if k not in FREE}
  return [_conditions(v) for v in value] if isinstance(value, (list, tuple)) else value


def _differences(a: Any, b: Any, path: str = "protocol"):
  """(where, left, right) of every difference between two plain trees."""
  if isinstance(a, dict) and isinstance(b, dict):
    for k in dict.fromkeys((*a, *b)):
      yield from _differences(a.get(k), b.get(k), f"{path}.{k}")
  elif a != b:
    yield path, a, b
