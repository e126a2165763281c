"""Mean and sd over runs: python -m jepa.evals.combine RUN [RUN ...], each a workdir or a results.json."""
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
import sys
from typing import Any

from absl import logging

from jepa.evals import results

# Differences between two runs that leave their numbers comparable: seeds, when and where it ran, the outcome.
FREE = {"seed", "eval_seed", "seeds", "step", "path", "paths", "workdir", "checkpoint", "outcome",
        "git", "time", "hardware"}


def combine(runs: Sequence[Sequence[results.Row]]) -> list[results.Row]:
  """Mean and sd over runs (training seeds) of the same (row, metric), each run at its last step.

  Raises:
    ValueError: a result that a run lacks, or protocols that differ in anything but seeds, steps, paths and
    outcomes.
  """
  if not runs:
    raise ValueError("no runs to combine")
  tables = [results.latest(rows) for rows in runs]
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
    if len(steps) > 1 and at[0] == results.TRAINED:
      logging.warning("%s of %s: the runs were evaluated at different steps %s", at[1], at[0],
                      sorted(map(str, steps)))
    seeds = [r["protocol"].get("seed") for r in found]
    if at[0] == results.TRAINED and None not in seeds and len(set(seeds)) < len(seeds):
      logging.warning("%s of %s: training seeds repeat %s, so these are not independent runs", at[1], at[0],
                      seeds)
    record = first | {"seed": seeds, "step": found[0]["protocol"].get("step"), "over": "runs"}
    combined.append(results.result(at[0], at[1], [r["mean"] for r in found], record))
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


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(prog="python -m jepa.evals.combine", description=__doc__)
  parser.add_argument("runs", nargs="+", type=Path, metavar="RUN",
                      help="workdir with a results.json, or the file itself")
  parser.add_argument("--out", type=Path, help="also write the combined results here")
  args = parser.parse_args(argv)
  files = [(r / "results.json" if r.is_dir() else r).resolve() for r in args.runs]
  for file in files:
    if not file.exists():
      parser.error(f"{file} does not exist; a run writes it when it evaluates")
    if files.count(file) > 1:
      parser.error(f"{file} is given twice; a run counts once")
  try:
    rows = combine([results.read(f) for f in files])
  except ValueError as error:
    parser.error(str(error))
  print(f"mean ± sd over {len(files)} run{'s' if len(files) > 1 else ''}"
        + (", accuracies in %" if rows else ""))
  print(results.table(rows))
  if args.out:
    results.save(rows, args.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
