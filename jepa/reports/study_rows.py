"""The results of many runs as rows with confidence intervals, and as a table.

A row of a study's results.json is {"name", "label", "group", "x", "metric", "mean", "sd", "ci95", "seeds",
"failed"}: of the trained encoder, over seeds. ci95 is the half-width of the 95 % confidence interval of the
mean (Student t), null with one seed; failed, the messages of seeds that have no number. Floors have the group
"floor", the name "raw pixels" or "untrained encoder", and "runs", the names of those they belong to.
"""
from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jepa import logs
from jepa.evals import combine, results
from jepa.reports import metrics

FAMILIES = ("contrastive", "non-contrastive", "masked latent", "reconstruction", "supervised", "world model")
FLOOR = "floor"
FACTS = ("images_per_s", "steps", "parameters", "flops_total", "seconds")      # of study.json, as metrics

Row = dict[str, Any]


class Result(NamedTuple):
  """One run with one seed, as its folder has it."""

  name: str
  label: str
  group: str
  x: float | None
  seed: int
  record: Mapping[str, Any]         # study.json: steps, images_per_s, ...
  rows: Sequence[results.Row]       # results.json; [] where the run is not finished or failed
  history: Sequence[Mapping[str, Any]] = ()      # metrics.jsonl
  floors: Sequence[results.Row] = ()             # floors.json: measured as the evaluations while training are
  config: Mapping[str, Any] = {}
  facts: Mapping[str, Any] = {}
  failed: str = ""                  # what went wrong


# What a workdir holds


def gather(runs: Mapping[str, Any], workdir: Path) -> list[Result]:
  """What it holds of these runs, in their order, seeds ascending; unfinished ones have no rows.

  Args:
    runs: by name, with their label, group and x.
  """
  found = []
  for name, r in runs.items():
    folders = {int(p.name[4:]): p for p in (workdir / name).glob("seed*") if p.name[4:].isdigit()}
    for seed, folder in sorted(folders.items()):
      record = read_json(folder / "study.json") or {}
      failure = read_json(folder / "failed.json")
      found.append(Result(
          name=name, label=r.label, group=r.group, x=r.x, seed=seed, record=record,
          rows=[] if failure else finished(folder, record.get("steps")), history=logs.history(folder),
          floors=(read_json(folder / "floors.json") or {}).get("rows", []),
          config=read_json(folder / "config.json") or {}, facts=read_json(folder / "facts.json") or {},
          failed=failure["message"] if failure else ""))
  return found


def finished(folder: Path, steps: int | None) -> list[results.Row]:
  """results.json, the trained encoder at the last step only; [] where that is not there."""
  rows = [r for r in results.read(folder / "results.json")
          if r["row"] != results.TRAINED or r["protocol"].get("step") == steps]
  return rows if any(r["row"] == results.TRAINED for r in rows) else []


def read_json(path: Path) -> Any:
  """None where there is no file."""
  return json.loads(path.read_text()) if path.exists() else None


def backbone(config: Mapping[str, Any]) -> dict[str, Any]:
  """The encoder of a run's config; a floor is that of a data set and a backbone."""
  return {"name": "vit"} | dict(config.get("args", {}).get("encoder", {}))


# Rows


def summarise(runs: Sequence[Result]) -> list[Row]:
  """Rows of the floors, then of the runs in their order; a run of which nothing is finished or failed has
  none."""
  rows = _floors(runs)
  for name in dict.fromkeys(r.name for r in runs):
    own = [r for r in runs if r.name == name]
    done = [r for r in own if r.rows]
    failed = [f"seed {r.seed}: {r.failed}" for r in own if r.failed]
    try:
      combined = combine.combine([r.rows for r in done]) if done else []
    except ValueError as error:     # seeds that were evaluated in different ways have no mean
      combined, failed = [], [*failed, f"seed {', '.join(str(r.seed) for r in done)}: {error}"]
      done = []
    values = {c["metric"]: (c["mean"], c["sd"], c["seeds"]) for c in combined if c["row"] == results.TRAINED}
    for fact in FACTS:
      if found := [r.record[fact] for r in done if r.record.get(fact) is not None]:
        c = results.result(name, fact, found, {})
        values[fact] = c["mean"], c["sd"], c["seeds"]
    if failed and not values:
      values["failed"] = None, None, 0
    rows += [_row(own[0], metric, *v, failed=failed) for metric, v in values.items()]
  return rows


def half_width(sd: float, n: int) -> float | None:
  """Of the 95 % confidence interval of a mean of n draws with this standard deviation (Student t)."""
  return float(special.stdtrit(n - 1, 0.975) * sd / n ** 0.5) if n > 1 else None


def _row(of: Result, metric: str, mean: float | None, sd: float | None, seeds: int, *,
         failed: Sequence[str] = ()) -> Row:
  return {"name": of.name, "label": of.label, "group": of.group, "x": of.x, "metric": metric, "mean": mean,
          "sd": sd, "ci95": half_width(sd, seeds) if seeds else None, "seeds": seeds, "failed": list(failed)}


def _floors(runs: Sequence[Result]) -> list[Row]:
  """Raw pixels once for every data set; the untrained encoder once for every data set and backbone, each
  seed's number a mean over the runs that share them (their other parts may have drawn other weights)."""
  groups: dict[tuple[str, str], dict] = {}
  for r in runs:
    encoder = backbone(r.config)
    for row in r.rows:
      if row["row"] == results.TRAINED:
        continue
      p = row["protocol"]
      key = [p.get("train"), p.get("test")]
      if row["row"] == results.UNTRAINED:
        key += [p.get("features"), encoder]
      group = groups.setdefault((row["row"], json.dumps(key, sort_keys=True, default=str)),
                                {"runs": {}, "x": set(), "encoder": encoder["name"], "values": {}})
      group["runs"][r.name] = r.label
      group["x"].add(r.x)
      group["values"].setdefault(row["metric"], {}).setdefault(r.seed, []).append(row["mean"])
  rows = []
  varies = len({x for g in groups.values() for x in g["x"]}) > 1
  for (name, key), group in groups.items():
    # of the same metrics: fine-tuning and segmentation call the features otherwise
    others = [g for (n, k), g in groups.items()
              if n == name and k != key and g["values"].keys() & group["values"]]
    x = next(iter(group["x"])) if varies and len(group["x"]) == 1 else None
    label = name
    if name == results.UNTRAINED and any(g["encoder"] != group["encoder"] for g in others):
      label = f"untrained {group['encoder']}"
    alike = [g for g in others if (x is None or g["x"] == group["x"])
             and (name == results.PIXELS or g["encoder"] == group["encoder"])]
    if alike:                     # nothing short tells them apart
      labels = list(dict.fromkeys(group["runs"].values()))
      label += f" of {labels[0]}" + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")
    of = Result(name=name, label=label, group=FLOOR, x=x, seed=0, record={}, rows=[])
    for metric, by_seed in group["values"].items():
      c = results.result(name, metric, [np.mean(v) for v in by_seed.values()], {})
      rows.append(_row(of, metric, c["mean"], c["sd"], c["seeds"]) | {"runs": list(group["runs"])})
  return rows


# The table


def cells(rows: Sequence[Row], *, x: str = "", labels: int | str = 10,
          spread: bool = False) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
  """Titles of the columns, and (name, label, texts) of the lines: floors, then runs in the order of `rows`.

  Args:
    x: title of the x coordinate; "" leaves it out. labels: a class, of the low-shot probe. spread: a column
      with the relative standard deviation of the features.
  """
  numbers = [r for r in rows if r["mean"] is not None]
  others = ("rankme", *(["std_relative"] if spread else []), "images_per_s", "steps")
  columns = [*metrics.accuracies(numbers), *(m for m in others if any(r["metric"] == m for r in numbers))]
  short = metrics.SHORT | {"lowshot": f"{labels} labels a class"}
  lines = {}
  for r in rows:
    lines.setdefault((r["group"] == FLOOR, r["name"], r["label"], r["x"]), {})[r["metric"]] = r
  titles = ["", "group", *([x] if x else []), *(short.get(m, m) for m in columns)]
  body = []
  for (floor, name, label, at), found in sorted(lines.items(), key=lambda line: not line[0][0]):
    one = next(iter(found.values()))
    done, gone = max(r["seeds"] for r in found.values()), len(one["failed"])
    texts = [text(found.get(m), m) for m in columns]
    if not done:
      texts[:1] = ["failed"]
    if done and gone:
      label = f"{label} ({done} of {done + gone} seeds)"
    where = ["" if at is None else f"{at:g}"] if x else []
    body.append((name, label, ["" if floor else one["group"], *where, *texts]))
  return titles, body


def text(row: Row | None, metric: str) -> str:
  """A number with its interval: accuracies in %."""
  if row is None or row["mean"] is None:
    return "-"
  if metric in ("images_per_s", "steps"):
    return f"{row['mean']:,.0f}" if row["mean"] >= 10 else f"{row['mean']:.2g}"
  percent, scale = metrics.percent(metric), metrics.scale(metric)
  mean = row["mean"] * scale
  if not percent and abs(mean) < 0.005:       # collapsed
    return f"{mean:.1g}"
  digits = 1 if percent or abs(mean) >= 10 else 2
  ci = "" if row["ci95"] is None else f" ± {row['ci95'] * scale:.{digits}f}"
  return f"{mean:.{digits}f}{ci}"


def legend(rows: Sequence[Row]) -> str:
  """What the numbers of the table are."""
  seeds = sorted({r["seeds"] for r in rows if r["seeds"] and r["group"] != FLOOR})
  if not seeds:
    return "Nothing is finished yet."
  over = "one seed" if seeds == [1] else f"{'-'.join(map(str, sorted({seeds[0], seeds[-1]})))} seeds"
  interval = "" if seeds == [1] else ", ± half the 95 % confidence interval (Student t)"
  return (f"Means over {over}{interval}; accuracies in %. RankMe counts directions that the features use and "
          "is bounded by their width.")


def markdown(rows: Sequence[Row], *, notes: Mapping[str, str] = {}, **options: Any) -> str:
  """The table, its legend and what failed, as Markdown. notes: by name of the run. options: of `cells`."""
  titles, lines = cells(rows, **options)
  plain = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
  out = ["| method | " + " | ".join(map(plain, titles[1:])) + " |",
         "| --- " * 2 + "| ---: " * (len(titles) - 2) + "|"]
  out += ["| " + " | ".join(map(plain, (label, *texts))) + " |" for _, label, texts in lines]
  out += ["", legend(rows)]
  labels = {r["name"]: r["label"] for r in rows}
  out += [f"{labels[name]}: {plain(note)}" for name, note in notes.items() if note and name in labels]
  out += [f"Failed: {failure}" for failure in failures(rows)]
  return "\n\n".join(["\n".join(out[:len(lines) + 2]), *out[len(lines) + 3:]]) + "\n"


def failures(rows: Sequence[Row]) -> list[str]:
  """One line for every run and what it failed of: the seeds, and the first line of the message."""
  found: dict[tuple[str, str], list[str]] = {}
  for name, message in dict.fromkeys((r["name"], f) for r in rows for f in r["failed"]):
    seed, _, why = message.splitlines()[0].partition(": ")
    found.setdefault((name, why), []).append(seed.removeprefix("seed "))
  return [f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {why}"
          for (name, why), seeds in found.items()]
