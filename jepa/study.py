r"""Many runs side by side, one table, one report:
python -m jepa.study --config=configs/compare.py[:ARGUMENT] --workdir=runs/compare [--only=NAME,NAME]
[--seeds=0,1] [--list] [--config.a.b=value ...]

The config file's get_config(argument) returns

  c.study = dict(title=..., question=..., figure=..., ...)                  the fields of Study, below
  c.runs = dict(NAME=dict(config=<config of a run>, label=...), ...)        the fields of Run, below

Runs come one after the other in this process, all of them with the first seed, then with the next, each in
workdir/NAME/seedK. A run that is finished is skipped and one that failed is tried again, so the same command
continues. The workdir gets results.json (after every run), table.md, report.html and figures/. One process
with all its devices; many processes (jax.distributed) are not supported.

Exit codes: 0 done, 75 interrupted and saved, 130 interrupted before or after the runs, 1 some runs failed
(the others are done) or an error.
"""
from collections.abc import Mapping, Sequence
import contextlib
import gc
import json
from pathlib import Path
import re
import shlex
import signal
import statistics
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

from absl import flags
import jax
from ml_collections import ConfigDict, config_flags

from jepa import checkpoint, command, config as configs, experiment, logs, train
from jepa.reports import study as page, study_panels, study_rows

# Fields of a run's config that its training does not depend on; one that differs in another is another run.
FREE = {"eval", "log", "checkpoint", "mesh", "replicated_tolerance", "nonfinite"}


class Study(NamedTuple):
  """config.study: what is compared, and how it is shown."""

  title: str
  question: str                             # one or two sentences: what is tested
  figure: str = "bars"                      # of study_panels.FIGURES
  seeds: tuple[int, ...] = (0, 1, 2)
  flops: float = 0.0                        # every run trains for so many FLOPs; 0: for its own total
  metric: str = "knn"                       # the main one
  x: str = ""                               # name of the x coordinate, for "lines"
  chance: float = 0.0                       # accuracy of a guess, in [0, 1]; 0: not drawn
  reports: bool = False                     # report.html of single runs, where their own config wants it


class Run(NamedTuple):
  """One of config.runs."""

  config: Mapping[str, Any]                 # as for jepa.main
  label: str                                # shown; for "lines" shared by the points of one line
  group: str = ""                           # e.g. "contrastive": colour and order
  x: float | None = None                    # for "lines"
  note: str = ""


class Plan(NamedTuple):
  """What a run will cost, whatever its seed."""

  config: dict[str, Any]                    # plain, its total replaced where the study has a budget
  steps: int
  flops_per_step: float                     # counted from the jaxpr of the whole step, backward included
  parameters: int                           # trained ones


def read(c: ConfigDict) -> tuple[Study, dict[str, Run]]:
  """The study and its runs by name, group by group.

  Raises:
    ValueError: names the field that does not fit, and what would.
  """
  raw = configs.plain(c)
  if "study" not in raw or not raw.get("runs"):
    raise ValueError("this config has no runs: a study's get_config returns config.study and config.runs "
                     "(see jepa/study.py); a single run is for python -m jepa.main")
  study = configs.call(Study, "config.study", **raw["study"])
  if study.figure not in study_panels.FIGURES:
    raise ValueError(f"config.study.figure = {study.figure!r}: choose of {', '.join(study_panels.FIGURES)}")
  if not study.seeds:
    raise ValueError("config.study.seeds is empty: give at least one, as in (0, 1, 2)")
  runs = {}
  for name, fields in raw["runs"].items():
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
      raise ValueError(f"config.runs: {name!r} becomes a folder; use letters, digits, _ and -")
    runs[name] = configs.call(Run, f"config.runs.{name}", **fields)
    if study.figure == "lines" and runs[name].x is None:
      raise ValueError(f"config.runs.{name}.x is missing: figure 'lines' draws against it")
  # A ConfigDict sorts its keys unless it is made with sort_keys=False; groups belong together in any case.
  groups = dict.fromkeys((*study_rows.FAMILIES, *(r.group for r in runs.values())))
  return study, {name: r for group in groups for name, r in runs.items() if r.group == group}


def plan(study: Study, run: Run) -> Plan:
  """Steps and operations of a run; builds it abstractly.

  Raises:
    ValueError: the run's config does not fit.
  """
  exp = experiment.build(ConfigDict(run.config))
  per_step = logs.operations(exp.step, exp.abstract, exp.batch)
  c = configs.plain(ConfigDict(run.config))
  if not study.reports:
    c["eval"]["report"] = False
  steps = exp.total
  if study.flops > 0:
    if not per_step > 0:
      raise ValueError("a step of this run has no matrix product or convolution to count, so it has no "
                       f"length under config.study.flops = {study.flops:g}; set config.study.flops=0")
    steps = max(1, round(study.flops / per_step))
    c["total"] = f"{steps} steps"
  parameters = sum(x.size for x in jax.tree.leaves(exp.abstract.params))
  return Plan(config=c, steps=steps, flops_per_step=per_step, parameters=parameters)


def run(c: ConfigDict, workdir: str | Path, *, only: Sequence[str] = (), seeds: Sequence[int] = (),
        listing: bool = False, command: str = "") -> int:
  """Makes what is missing of the study `c` in `workdir` and reports; returns an exit code: 0, 1 where runs
  failed, or train.INTERRUPTED.

  Args:
    only: names of runs; all by default. seeds: in place of the study's. The report always covers whatever the
      workdir holds.
    listing: only print the runs with their steps and FLOPs.
    command: for the report.

  Raises:
    ValueError: the config does not fit, or a name that no run has.
  """
  workdir = Path(workdir)
  study, runs = read(c)
  names = _chosen(only, runs)
  seeds = tuple(dict.fromkeys(seeds or study.seeds))
  try:
    with _sigterm_is_ctrl_c():
      print(f"counting the FLOPs of {len(names)} runs", file=sys.stderr, flush=True)
      plans = _with_floors({name: _plan_or_error(study, runs[name]) for name in names})
      if listing:
        print(_list(study, runs, plans, seeds, workdir), flush=True)
        return 0
      interrupted = _train(study, runs, plans, [(s, n) for s in seeds for n in names], workdir)
  except KeyboardInterrupt:
    interrupted = True

  found = study_rows.gather(runs, workdir)
  path = page.write(workdir, found, study=study._asdict(), command=command, config=configs.plain(c),
                    runs={name: r._asdict() for name, r in runs.items()})
  print(f"\n{(workdir / 'table.md').read_text()}\nreport: {path}", flush=True)
  if interrupted:
    print("interrupted: the same command continues", file=sys.stderr)
    return train.INTERRUPTED
  failed = [r for r in found if r.failed and r.name in names and r.seed in seeds]
  for r in failed:
    print(f"failed: {r.name} seed {r.seed}: {r.failed}", file=sys.stderr)
  return 1 if failed else 0


def _train(study: Study, runs: Mapping[str, Run], plans: Mapping[str, Plan | str],
           order: Sequence[tuple[int, str]], workdir: Path) -> bool:
  """Makes the runs (seed, name) that are not complete, in this order; whether a signal stopped it."""
  start, fresh = time.monotonic(), []       # (name, seconds) of what was trained here
  todo = [(s, n) for s, n in order if not _complete(plans[n], s, workdir / n / f"seed{s}")]
  if len(todo) < len(order):
    print(f"{len(order) - len(todo)} of {len(order)} runs are complete", file=sys.stderr, flush=True)
  for i, (seed, name) in enumerate(todo, 1):
    folder, clock = workdir / name / f"seed{seed}", time.monotonic()
    print(f"\n[{i}/{len(todo)}] {name} seed {seed}", file=sys.stderr, flush=True)
    code, message = _one(name, runs[name], plans[name], seed, folder)
    # Compiled programs and the arrays they close over would otherwise add up over the study.
    jax.clear_caches()
    gc.collect()
    if code == train.INTERRUPTED:
      return True
    fresh.append((name, time.monotonic() - clock))
    logs.write_json(workdir / "results.json", study_rows.summarise(study_rows.gather(runs, workdir)))
    elapsed, left = time.monotonic() - start, _left(fresh, [n for _, n in todo[i:]], plans)
    print(f"[{i}/{len(todo)}] {name} seed {seed}: {f'FAILED: {message}' if message else 'done'} in "
          f"{_clock(fresh[-1][1])}; {_clock(elapsed)} so far"
          + (f", about {_clock(left)} to go" if i < len(todo) else ""), file=sys.stderr, flush=True)
  return False


def _one(name: str, r: Run, planned: Plan | str, seed: int, folder: Path) -> tuple[int, str]:
  """(exit code, what went wrong) of one run; writes study.json, and failed.json where it failed."""
  if isinstance(planned, str):
    return _fail(folder, planned, "")
  record = {"name": name, "label": r.label, "group": r.group, "x": r.x, "seed": seed, "steps": planned.steps,
            "flops_per_step": planned.flops_per_step, "flops_total": planned.flops_per_step * planned.steps,
            "parameters": planned.parameters, "images_per_s": None,
            "seconds": (study_rows.read_json(folder / "study.json") or {}).get("seconds", 0.0)}
  (folder / "failed.json").unlink(missing_ok=True)
  logs.write_json(folder / "study.json", record)
  clock, code, message, trace = time.monotonic(), 0, "", ""
  try:
    if checkpoint.steps(folder / "checkpoints"):
      _refuse_other_run(folder, planned, seed)
    code = train.run(ConfigDict(planned.config | {"seed": seed}), folder)
  except Exception as error:        # also what no run should raise: it must not cost the others
    message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
  rates = [h["images_per_s"] for h in logs.history(folder) if "images_per_s" in h]
  record["images_per_s"] = statistics.median(rates) if rates else None
  record["seconds"] += time.monotonic() - clock
  logs.write_json(folder / "study.json", record)
  if not message and code == 0 and not study_rows.finished(folder, planned.steps):
    message = (f"{folder} has no evaluation at step {planned.steps}: it holds a run of another length, or "
               "config.eval.final is empty; use another --workdir, or name evaluators")
  return _fail(folder, message, trace) if message else (code, "")


def _refuse_other_run(folder: Path, planned: Plan, seed: int) -> None:
  """train.run goes on with a changed learning rate or length; in a table that would be called what it is not.

  Raises:
    checkpoint.Mismatch: the folder holds what another config trained.
  """
  old, new = study_rows.read_json(folder / "config.json") or {}, _as_saved(planned, seed)
  data = lambda c: {k: v for k, v in c.get("data", {}).items() if k not in ("workers", "prefetch")}
  changed = [k for k in new if k not in FREE | {"data"} and old.get(k) != new[k]]
  changed += ["data"] if data(old) != data(new) else []
  if changed:
    raise checkpoint.Mismatch(f"{folder} holds a run of another config ({', '.join(changed)} changed): move "
                              "it away, or use another --workdir")


def _as_saved(planned: Plan, seed: int) -> dict:
  """The run's config as its config.json has it."""
  return json.loads(json.dumps(planned.config | {"seed": seed}, default=str))


def _fail(folder: Path, message: str, trace: str) -> tuple[int, str]:
  logs.write_json(folder / "failed.json", {"message": message, "traceback": trace})
  return 1, message


def _plan_or_error(study: Study, r: Run) -> Plan | str:
  """The plan, or why there is none: one config that does not fit must not cost the other runs."""
  try:
    return plan(study, r)
  except command.SAID as error:
    return f"{type(error).__name__}: {error}"
  finally:
    jax.clear_caches()


def _with_floors(plans: Mapping[str, Plan | str]) -> dict[str, Plan | str]:
  """A study may leave the floors to one run of each data set and backbone (config.eval.floors). Where that
  one was not chosen, the first that shares them measures them."""
  by_floor: dict[str, list[str]] = {}
  for name, p in plans.items():
    if isinstance(p, Plan):
      key = json.dumps([p.config["data"], study_rows.backbone(p.config)], sort_keys=True, default=str)
      by_floor.setdefault(key, []).append(name)
  plans = dict(plans)
  for names in by_floor.values():
    if not any(plans[name].config["eval"].get("floors", True) for name in names):
      c = plans[names[0]].config
      plans[names[0]] = plans[names[0]]._replace(config=c | {"eval": c["eval"] | {"floors": True}})
  return plans


def _complete(planned: Plan | str, seed: int, folder: Path) -> bool:
  """Whether the folder holds exactly this run, evaluated at its last step."""
  if isinstance(planned, str) or (folder / "failed.json").exists():
    return False
  if not study_rows.finished(folder, planned.steps):
    return False
  # Who measures the floors depends on the runs that were chosen, and the run is the same.
  plain = lambda c: c | {"eval": {k: v for k, v in c["eval"].items() if k != "floors"}}
  saved = study_rows.read_json(folder / "config.json")
  return saved is not None and plain(saved) == plain(_as_saved(planned, seed))


def _chosen(only: Sequence[str], runs: Mapping[str, Run]) -> list[str]:
  """Names of runs, in the study's order."""
  for name in only:
    if name not in runs:
      raise ValueError(f"--only={name}: there is no such run{configs.hint(name, runs)} "
                       f"Runs: {', '.join(runs)}")
  return [name for name in runs if not only or name in only]


def _left(fresh: Sequence[tuple[str, float]], todo: Sequence[str], plans: Mapping[str, Plan | str]) -> float:
  """Seconds that the runs `todo` may take: those of the same run with another seed, else by FLOPs."""
  cost = lambda name: 0.0 if isinstance(p := plans[name], str) else p.flops_per_step * p.steps
  known = dict(fresh)
  done = sum(cost(name) for name, _ in fresh)
  rate = sum(known.values()) / done if done else 0.0
  return sum(known.get(name, rate * cost(name)) for name in todo)


def _clock(seconds: float) -> str:
  minutes = round(seconds / 60)
  return (f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100
          else f"{minutes // 60} h {minutes % 60:02d} min")


def _list(study: Study, runs: Mapping[str, Run], plans: Mapping[str, Plan | str], seeds: Sequence[int],
          workdir: Path) -> str:
  """The runs with their steps and FLOPs as fixed-width text."""
  head = ["run", "group", "steps", "FLOPs a step", "FLOPs", "parameters", "done", "label"]
  body = []
  for name, p in plans.items():
    if isinstance(p, str):
      body.append([name, runs[name].group, "-", "-", "-", "-", "-", p])
      continue
    done = sum(_complete(p, s, workdir / name / f"seed{s}") for s in seeds)
    body.append([name, runs[name].group, f"{p.steps:,}", f"{p.flops_per_step:.3g}",
                 f"{p.flops_per_step * p.steps:.3g}", f"{p.parameters:,}", f"{done}/{len(seeds)}",
                 runs[name].label])
  widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
  text = lambda line: "  ".join(t.rjust(w) if 1 < i < 7 else t.ljust(w)
                                for i, (t, w) in enumerate(zip(line, widths))).rstrip()
  total = sum(p.flops_per_step * p.steps for p in plans.values() if not isinstance(p, str)) * len(seeds)
  return "\n".join([study.title, "", *map(text, (head, *body)), "",
                    f"{len(plans) * len(seeds)} runs with seeds {', '.join(map(str, seeds))}: "
                    f"{total:.3g} FLOPs"])


@contextlib.contextmanager
def _sigterm_is_ctrl_c():
  """Between runs SIGTERM ends the study as Ctrl-C does; while one trains, train.run has both."""
  def stop(number, frame):
    raise KeyboardInterrupt
  main = threading.current_thread() is threading.main_thread()
  old = signal.signal(signal.SIGTERM, stop) if main else None
  try:
    yield
  finally:
    if main:
      signal.signal(signal.SIGTERM, old)


def main() -> int:
  """Makes the study of the flags; returns an exit code."""
  values = flags.FLAGS
  if bad := [s for s in values.seeds if not s.isdigit()]:
    raise ValueError(f"--seeds: {bad[0]!r} is not a seed; write numbers, as in --seeds=0,1")
  return run(values.config, values.workdir, only=values.only, seeds=[int(s) for s in values.seeds],
             listing=values.list, command="python -m jepa.study " + shlex.join(sys.argv[1:]))


def start() -> None:
  """Defines and parses flags, and runs; the program's `main`. Flags live here and not in the module, since a
  process that imports this one and jepa.main would define them twice."""
  config_flags.DEFINE_config_file(
      "config", None, "A study of configs/, as FILE or FILE:ARGUMENT; override its fields with "
      "--config.a.b=value, as in --config.study.flops=1e14 or \"--config.runs['NAME'].config.batch=64\".",
      lock_config=True)
  flags.DEFINE_string("workdir", None, "Where the runs, results.json, table.md and report.html go. The same "
                      "one again continues the study. One process with all its devices; many processes are "
                      "not supported.")
  flags.DEFINE_list("only", [], "Names of runs, comma separated; all by default.")
  flags.DEFINE_list("seeds", [], "Seeds, comma separated; those of the study by default.")
  flags.DEFINE_bool("list", False, "Print the runs with their steps and FLOPs, and train nothing.")
  command.run(main, required=["config", "workdir"], interrupted="the same command continues")


if __name__ == "__main__":
  start()
