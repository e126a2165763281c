"""Results: rows of numbers, the table that they make, and results.json.

A row is {"row", "metric", "mean", "sd", "seeds", "protocol"}: what was evaluated (raw pixels, untrained
encoder, trained encoder), which number, over how many independent draws or runs, and all that one must hold
fixed to compare it with another. protocol["evaluator"] is the file that measured it, whose COLUMNS say how it
is shown; protocol["outcome"] is what came out beside the number (penalty chosen, say), and no condition.
"""
from collections.abc import Mapping, Sequence
import functools
import json
import math
import os
from pathlib import Path
import re
from typing import Any

from absl import logging
import numpy as np

from jepa import config as configs, logs

PIXELS, UNTRAINED, TRAINED = "raw pixels", "untrained encoder", "trained encoder"
ROWS = (PIXELS, UNTRAINED, TRAINED)

Row = dict[str, Any]                # accuracies in [0, 1]
Column = tuple[str, str, str, str]  # metric, two lines of title, "percent" or "number"


def result(row: str, metric: str, values: float | np.ndarray, protocol: Mapping[str, Any]) -> Row:
  """A row of results.json. `values`: one number, or one number per independent draw."""
  values = np.atleast_1d(np.asarray(values, np.float64))
  sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
  return {"row": row, "metric": metric, "mean": float(values.mean()), "sd": sd, "seeds": len(values),
          "protocol": dict(protocol)}


def latest(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
  """(row, metric) -> its result at the largest step; results without a step count as the last."""
  step = lambda r: math.inf if r["protocol"].get("step") is None else r["protocol"]["step"]
  found = {}
  for r in rows:
    at = (r["row"], r["metric"])
    if at not in found or step(r) >= step(found[at]):
      found[at] = r
  return found


# ---- the table ----

def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
  """The columns that rows have a number for: percents before numbers, by the ORDER of their evaluators. What
  no evaluator has a column for is not shown. A row need not have a protocol.
  """
  evaluators = {r["metric"]: r.get("protocol", {}).get("evaluator", "") for r in rows}
  found = filter(None, (_column(*x) for x in evaluators.items()))
  return tuple(column for _, column in sorted(found, key=lambda x: x[0]))


@functools.cache
def _column(metric: str, evaluator: str) -> tuple[tuple, Column] | None:
  """(place in a table, column) of a metric: of its evaluator, else of the one of its name, else of any."""
  known = configs.names("jepa.evals", "evaluate")
  for name in [evaluator] if evaluator else [metric] if metric in known else known:
    try:
      module = configs.module(name, "jepa.evals", "evaluate")
    except (ValueError, ImportError) as error:      # of a repository that is not installed here
      logging.warning("%s has no column: %s", metric, error)
      continue
    for i, column in enumerate(getattr(module, "COLUMNS", ())):
      if column[0] == metric:
        return (column[3] != "percent", getattr(module, "ORDER", math.inf), i), tuple(column)
  return None


def cells(rows: Sequence[Row], shown: Sequence[Column]) -> tuple[
    list[tuple[str, str]], list[tuple[str, list[str], list[float | None]]]]:
  """The table as data: titles of the columns `shown` (two lines each), and (row name, texts, means) in the
  order of ROWS, then others. {labels} in a title is what the rows' settings have for it.
  """
  by = latest(rows)
  names = [r for r in ROWS if any(r == a for a, _ in by)] + sorted({r for r, _ in by} - set(ROWS))
  titles = []
  for metric, *title, _ in shown:
    settings = [r["protocol"].get("settings", {}) for (_, m), r in by.items() if m == metric]
    said = lambda m: "/".join(map(str, sorted({s[m[1]] for s in settings if m[1] in s}))) or m[0]
    titles.append(tuple(re.sub(r"{(\w+)}", said, text) for text in title))
  lines = []
  for name in names:
    found = [by.get((name, metric)) for metric, *_ in shown]
    lines.append((name, [_cell(r, how) for r, (*_, how) in zip(found, shown)],
                  [r and r["mean"] for r in found]))
  return titles, lines


def _cell(row: Row | None, how: str) -> str:
  if row is None:
    return "-"
  scale = 100 if how == "percent" else 1
  mean, sd = row["mean"] * scale, row["sd"] * scale
  form = ".1f" if how == "percent" or abs(mean) >= 10 else ".3g"
  spread = "" if row["seeds"] < 2 else f" ± {sd:.1f}" if how == "percent" else f" ± {sd:.2g}"
  return f"{mean:{form}}{spread}"


def table(rows: Sequence[Row]) -> str:
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


# ---- results.json ----

def read(path: str | os.PathLike) -> list[Row]:
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


def save(rows: Sequence[Row], path: str | os.PathLike) -> list[Row]:
  """Merges into results.json and returns all of it; a result replaces the one of the same (row, metric,
  step).

  Atomic; only the first process writes.
  """
  path = Path(path)
  key = lambda r: (r["row"], r["metric"], r["protocol"].get("step"))
  merged = list({key(r): r for r in (*read(path), *rows)}.values())
  logs.write_text(path, json.dumps(merged, indent=1, allow_nan=False, default=_plain) + "\n")
  return merged


def _plain(value: Any) -> Any:
  """NumPy and JAX scalars and paths as JSON values."""
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, "tolist"):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} in a protocol cannot be written as JSON: {value!r}")
