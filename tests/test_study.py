"""A study makes its runs, skips what is finished, goes on after failures, reports what the runs measured."""
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys

from matplotlib.image import imread
from ml_collections import ConfigDict
import numpy as np
import pytest

from jepa import experiment, logs, study, train
from jepa.evals import results
from jepa.reports import study as pages, study_rows
from tests import runs
from tests.test_report import parse

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests import test_study
def get_config(arg=None):
  return test_study.config()
"""


def single(**args):
  """A run in a second: synthetic images, 4 steps, kNN and collapse, also while it trains."""
  c = runs.config("quickstart")
  c.args.update(args)
  c.log.tensorboard = False
  c.checkpoint.every, c.eval.every, c.eval.online = "4 steps", "2 steps", ("knn", "collapse")
  return c


def config(**fields):
  """A study of two runs and two seeds."""
  c = ConfigDict()
  c.study = dict(title="Two <runs>", question="Does it matter?", figure="bars", seeds=(0, 1), flops=0.0,
                 metric="knn", x="", chance=0.25)
  c.runs = {"sig": dict(config=single(), label="SIGReg", group="with", x=0.0, note="a | note"),
            "sig-none": dict(config=single(none=True), label="Nothing", group="without", x=1.0, note="")}
  for key, value in fields.items():
    c.study[key] = value
  return c


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """(workdir, calls of train.run: until an interruption, after it, and once more; exit codes)."""
  workdir, real, found, codes = tmp_path_factory.mktemp("study"), train.run, [[]], []
  def run(c, at):
    found[-1].append("/".join(at.parts[-2:]))
    return train.INTERRUPTED if len(found) == 1 and len(found[0]) == 3 else real(c, at)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "run", run)
    codes.append(study.run(config(), workdir))
    early = json.loads((workdir / "results.json").read_text())
    assert (workdir / "report.html").is_file()
    for _ in range(2):
      found.append([])
      codes.append(study.run(config(), workdir, command="python -m jepa.study --config=a.py"))
  return workdir, found, codes, early


def test_seeds_first_and_the_same_command_continues(done):
  _, found, codes, early = done
  assert found == [["sig/seed0", "sig-none/seed0", "sig/seed1"], ["sig/seed1", "sig-none/seed1"], []]
  assert codes == [train.INTERRUPTED, 0, 0]
  assert {(r["seeds"], r["ci95"]) for r in early if r["group"] != study_rows.FLOOR} == {(1, None)}


def test_numbers_are_those_of_the_runs(done):
  workdir, *_ = done
  rows = json.loads((workdir / "results.json").read_text())
  by = {(r["name"], r["metric"]): r for r in rows}
  for name, group, x in (("sig", "with", 0.0), ("sig-none", "without", 1.0)):
    for metric in ("knn", "rankme"):
      values = [r["mean"] for s in (0, 1) for r in results.read(workdir / name / f"seed{s}" / "results.json")
                if (r["row"], r["metric"]) == (results.TRAINED, metric)]
      row = by[name, metric]
      assert row["mean"] == pytest.approx(statistics.mean(values), rel=1e-12)
      assert row["sd"] == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-15)
      # t of one degree of freedom at 97.5 % is 12.7062
      assert row["ci95"] == pytest.approx(12.7062 * row["sd"] / math.sqrt(2), rel=1e-4)
      assert (row["group"], row["x"], row["seeds"], row["failed"]) == (group, x, 2, [])
    assert by[name, "steps"]["mean"] == 4
  # both have the same data and backbone: their floors are shown once
  floors = [r for r in rows if r["group"] == study_rows.FLOOR and r["metric"] == "knn"]
  assert [(r["label"], r["runs"], r["seeds"]) for r in floors] == [
      (results.PIXELS, ["sig", "sig-none"], 2), (results.UNTRAINED, ["sig", "sig-none"], 2)]


def test_a_run_may_leave_the_floors_to_another(tmp_path):
  c = single()
  c.eval.floors, c.eval.online = False, ()
  assert train.run(c, tmp_path) == 0
  assert {r["row"] for r in results.read(tmp_path / "results.json")} == {results.TRAINED}


@pytest.mark.parametrize("only,expected", [(("sig",), True), ((), False)])
def test_floors_are_measured_whichever_runs_are_chosen(only, expected, tmp_path, monkeypatch):
  """`sig` leaves them to `sig-none`, and has its own where that one is not chosen."""
  c, seen = config(), []
  c.runs["sig"].config.eval.floors = False
  def stop(run, at):
    seen.append((at.parts[-2], run.eval.floors))
    return train.INTERRUPTED
  monkeypatch.setattr(train, "run", stop)
  assert study.run(c, tmp_path, only=only) == train.INTERRUPTED
  assert seen == [("sig", expected)]


def test_a_run_is_complete_with_floors_or_without(done):
  workdir, *_ = done
  c = config()
  c.runs["sig"].config.eval.floors = False
  _, listed = study.read(c)
  planned = study.plan(study.read(c)[0], listed["sig"])
  assert study._complete(planned, 0, workdir / "sig" / "seed0")
  planned.config["eval"]["every"] = "1 step"
  assert not study._complete(planned, 0, workdir / "sig" / "seed0")


def test_what_a_run_cost(done):
  workdir, *_ = done
  record = json.loads((workdir / "sig" / "seed1" / "study.json").read_text())
  exp = experiment.build(single())
  assert record["name"] == "sig" and record["label"] == "SIGReg" and record["seed"] == 1
  assert record["flops_per_step"] == logs.operations(exp.step, exp.abstract, exp.batch)
  assert record["flops_total"] == 4 * record["flops_per_step"] and record["steps"] == 4
  assert record["seconds"] > 0 and record["images_per_s"] > 0 and record["parameters"] > 1000


def test_table_page_and_figures(done):
  workdir, *_ = done
  table = (workdir / "table.md").read_text()
  lines = table.splitlines()
  assert lines[0] == "| method | group | kNN | RankMe | images/s | steps |"
  assert len({line.count("|") for line in lines[:6]}) == 1 and lines[4].startswith("| SIGReg | with | ")
  assert "a \\| note" in table and "2 seeds" in table
  text = (workdir / "report.html").read_text()
  assert len(parse(workdir / "report.html").images) == len(list((workdir / "figures").glob("*.png"))) >= 2
  for piece in ("Two &lt;runs&gt;", "Does it matter?", "python -m jepa.study --config=a.py", "Git revision"):
    assert piece in text


def test_what_fails_is_recorded_and_the_rest_goes_on(tmp_path, capsys):
  c = config(seeds=(0,))
  c.runs["broken"] = dict(config=single(typo=1), label="Broken", group="with")
  c.runs["nan"] = dict(config=single(), label="Diverged", group="with")
  c.runs["nan"].config.optim.lr = dict(kind="constant", value=float("nan"))
  c.runs = {k: c.runs[k] for k in ("broken", "nan", "sig")}
  assert study.run(c, tmp_path) == 1
  failed = {p.parts[-3]: json.loads(p.read_text()) for p in tmp_path.glob("*/*/failed.json")}
  assert set(failed) == {"broken", "nan"}
  assert "typo is not an option" in failed["broken"]["message"]
  assert failed["nan"]["message"].startswith("NonFinite: ") and "train.py" in failed["nan"]["traceback"]
  said = capsys.readouterr()
  assert "failed: nan seed 0: NonFinite" in said.err and "1/3" in said.err
  table = (tmp_path / "table.md").read_text()
  assert "| Diverged | with | failed |" in table and "Failed: broken, seed 0: ValueError" in table
  rows = json.loads((tmp_path / "results.json").read_text())
  assert [r["mean"] for r in rows if r["name"] == "nan"] == [None]
  assert any(r["name"] == "sig" and r["metric"] == "knn" for r in rows)


def test_mended_runs_replace_their_failure(done, tmp_path, monkeypatch):
  """A failed run is tried again, and its failure is forgotten when it succeeds."""
  source = done[0] / "sig" / "seed0"
  folder = tmp_path / "sig" / "seed0"
  folder.mkdir(parents=True)
  (folder / "failed.json").write_text(json.dumps({"message": "ValueError: once", "traceback": ""}))

  def run(c, at):
    for name in ("results.json", "config.json", "metrics.jsonl"):
      (at / name).write_text((source / name).read_text())
    return 0
  monkeypatch.setattr(train, "run", run)
  assert study.run(config(), tmp_path, only=["sig"], seeds=[0]) == 0
  assert not (folder / "failed.json").exists()


def test_a_run_of_another_length_is_no_result(done, tmp_path, monkeypatch):
  """What is shown was evaluated at the step that was planned."""
  source = done[0] / "sig" / "seed0"
  monkeypatch.setattr(train, "run", lambda c, at: (at / "results.json").write_text(
      (source / "results.json").read_text()) and 0)
  c = config(flops=1e9)
  assert study.run(c, tmp_path, only=["sig"], seeds=[0]) == 1
  assert "another length" in json.loads((tmp_path / "sig/seed0/failed.json").read_text())["message"]


def test_a_changed_config_is_another_run(done, tmp_path, monkeypatch):
  """The folder's result is that of the learning rate it was trained with; other evaluations are made anew."""
  shutil.copytree(done[0] / "sig", tmp_path / "sig")
  called = []
  monkeypatch.setattr(train, "run", lambda c, at: called.append(at.name) or 0)
  c = config()
  c.runs["sig"].config.eval.batch = 64
  assert study.run(c, tmp_path, only=["sig"], seeds=[0]) == 0 and called == ["seed0"]
  c.runs["sig"].config.optim.lr.value = 1.0
  assert study.run(c, tmp_path, only=["sig"], seeds=[0]) == 1 and called == ["seed0"]
  failure = json.loads((tmp_path / "sig/seed0/failed.json").read_text())
  assert "another config (optim changed)" in failure["message"]


def test_sigterm_between_runs_is_an_interruption(tmp_path, monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(train, "run", lambda c, at: os.kill(os.getpid(), signal.SIGTERM))
  assert study.run(config(), tmp_path, only=["sig"]) == train.INTERRUPTED
  assert signal.getsignal(signal.SIGTERM) is before and not list(tmp_path.glob("*/*/failed.json"))


def test_a_missing_package_costs_its_run_alone(monkeypatch):
  def plan(*of):
    raise ImportError("an HDF5 file needs h5py")
  monkeypatch.setattr(study, "plan", plan)
  assert study._plan_or_error(None, None) == "ImportError: an HDF5 file needs h5py"


def test_studies_are_told_by_what_they_return(tmp_path):
  """One of a fork is no run, whatever its name, and a broken file keeps nothing from being collected."""
  for name, body in (("run", "return dict(method='byol')"), ("ours", "return dict(study={}, runs={})"),
                     ("broken", "raise OSError(arg)"), ("_parts", "return dict(method='no')")):
    (tmp_path / f"{name}.py").write_text(f"def get_config(arg=None):\n  {body}\n")
  (tmp_path / "worse.py").write_text("import nothing_that_there_is\n")
  assert runs.listed(tmp_path) == ({"broken": "", "run": "byol", "worse": ""}, ["ours"])
  assert {"collapse", "compare", "detail"} <= set(runs.STUDIES) and "quickstart" in runs.CONFIGS


def test_a_budget_gives_steps():
  s, r = study.read(config())
  free = study.plan(s, r["sig"])
  assert free.steps == 4 and free.config["eval"]["report"] is False
  for budget, steps in ((10.4, 10), (0.2, 1)):
    planned = study.plan(s._replace(flops=budget * free.flops_per_step), r["sig"])
    assert planned.steps == steps and planned.config["total"] == f"{steps} steps"
    assert experiment.build(ConfigDict(planned.config)).total == steps


def test_list_trains_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(train, "run", lambda *_: pytest.fail("trained"))
  assert study.run(config(), tmp_path / "a", listing=True, only=["sig"]) == 0
  out = capsys.readouterr().out
  assert re.search(r"^sig +with +4 +[\d.e+]+ +[\d.e+]+ +[\d,]+ +0/2 +SIGReg$", out, re.M)
  assert "sig-none" not in out and not (tmp_path / "a").exists()


def test_mistakes_say_what_to_write(tmp_path):
  with pytest.raises(ValueError, match="did you mean 'sig-none'.*Runs: sig, sig-none"):
    study.run(config(), tmp_path, only=["sig-nnoe"])
  with pytest.raises(ValueError, match="choose of bars, curves, lines"):
    study.read(config(figure="pie"))
  with pytest.raises(ValueError, match="config.study.flop is not an option; did you mean 'flops'"):
    study.read(config(flop=1.0))
  with pytest.raises(ValueError, match="no runs.*jepa.main"):
    study.read(single())
  c = config()
  c.runs = ConfigDict()
  with pytest.raises(ValueError, match="no runs"):
    study.read(c)
  c = config(figure="lines")
  del c.runs["sig"].x
  with pytest.raises(ValueError, match="config.runs.sig.x is missing"):
    study.read(c)
  c.runs["a b"] = c.runs["sig"]
  with pytest.raises(ValueError, match="becomes a folder"):
    study.read(c)


def test_the_command_line(tmp_path):
  (tmp_path / "two.py").write_text(CONFIG.format(root=str(runs.ROOT)))
  command = [sys.executable, "-m", "jepa.study", f"--config={tmp_path}/two.py", f"--workdir={tmp_path}/w"]
  more = ["--only=sig", "--seeds=3", "--config.runs['sig'].config.log.every=2 steps"]
  finished = subprocess.run([*command, *more], cwd=runs.ROOT, capture_output=True, text=True, timeout=200)
  assert finished.returncode == 0, finished.stderr
  assert "[1/1] sig seed 3: done" in finished.stderr and "| SIGReg | with |" in finished.stdout
  assert "Not run yet: sig-none." in finished.stdout
  assert json.loads((tmp_path / "w/sig/seed3/config.json").read_text())["log"]["every"] == "2 steps"


# The report, from made-up numbers.

RNG = np.random.default_rng(0)


def result(name, seed=0, *, x=None, encoder="vit", data="toy", group="g", label=None, failed=""):
  """One run with probes, kNN, collapse statistics, and a curve."""
  protocol = {"train": data, "test": data, "features": "pooled", "settings": {"labels": 10}}
  rows = [results.result(row, metric, value + 0.01 * RNG.random(), protocol | {"seed": seed, "step": step})
          for row, step in ((results.PIXELS, 0), (results.UNTRAINED, 0), (results.TRAINED, 40))
          for metric, value in (("linear", 0.7), ("knn", 0.6), ("rankme", 9.0), ("std_relative", 0.4))]
  history = [{"step": s, "eval/knn": 0.3 + s / 200, "eval/rankme": 9.0 / (1 + s * name.endswith("-none")),
              "eval/std_relative": 0.5 * 0.5 ** (s * name.endswith("-none"))} for s in (10, 20, 30)]
  return study_rows.Result(
      name, label or name.title(), group, x, seed, {"steps": 40, "images_per_s": 100.0 + len(name)},
      [] if failed else rows, history, rows, {"args": {"encoder": {"name": encoder}}}, {}, failed)


def write(tmp_path, results, figure, **fields):
  names = {r.name: dict(label=r.label, note="") for r in results}
  about = study.Study(title="T", question="Q", figure=figure, chance=0.1, **fields)._asdict()
  return pages.write(tmp_path, results, study=about, runs=names)


@pytest.mark.parametrize("figure,files", [
    ("bars", {"knn", "linear", "speed"}), ("curves", {"training", "knn", "linear"}),
    ("lines", {"knn", "linear"})])
def test_figures(tmp_path, figure, files):
  results = [result(name, seed, x=x, label=label)
             for x in (0.0, 0.5) for name, label in ((f"a{x}", "A"), (f"a{x}-none", "B")) for seed in (0, 1)]
  results += [result("broken", s, x=0.0, label="C", failed="ValueError: no\nmore") for s in (0, 1)]
  page = write(tmp_path, results, figure, x="contrast")
  assert {p.stem for p in (tmp_path / "figures").glob("*.png")} == files
  assert len(parse(page).images) == len(files)
  for path in (tmp_path / "figures").glob("*.png"):
    picture = imread(path)
    assert min(picture.shape[:2]) > 300 and picture.std() > 0.01
  assert "Failed: broken, seeds 0, 1: ValueError: no" in (tmp_path / "table.md").read_text()
  assert ("| contrast |" in (tmp_path / "table.md").read_text()) == (figure == "lines")


def test_an_empty_study_has_a_page(tmp_path):
  page = write(tmp_path, [result("a", failed="ValueError: x")], "bars")
  assert parse(page).images == [] and "failed" in (tmp_path / "table.md").read_text()
  page = pages.write(tmp_path, [], study=study.Study("T", "Q")._asdict(), runs={"a": dict(label="A")})
  assert parse(page).images == []
  assert "Not run yet: a." in (tmp_path / "table.md").read_text()


def test_floors_of_different_backbones_and_data_are_told_apart():
  labels = lambda results: [(r["label"], r["x"], r["runs"]) for r in study_rows.summarise(results)
                            if r["group"] == study_rows.FLOOR and r["metric"] == "knn"]
  assert labels([result("a"), result("b", encoder="resnet")]) == [
      (results.PIXELS, None, ["a", "b"]), ("untrained vit", None, ["a"]), ("untrained resnet", None, ["b"])]
  assert labels([result("a", x=0.0, data="p"), result("b", x=0.5, data="q")]) == [
      (results.PIXELS, 0.0, ["a"]), (results.UNTRAINED, 0.0, ["a"]), (results.PIXELS, 0.5, ["b"]),
      (results.UNTRAINED, 0.5, ["b"])]
  assert labels([result("a", x=0.0), result("b", x=0.0, encoder="resnet")])[0] == (
      results.PIXELS, None, ["a", "b"])
  assert labels([result("a", data="p"), result("b", data="q")])[0] == ("raw pixels of A", None, ["a"])


def test_metrics_that_name_their_features_otherwise_share_a_floor():
  one = result("a")
  floor = next(r for r in one.rows if r["row"] == results.UNTRAINED)
  more = floor | {"metric": "segment", "protocol": floor["protocol"] | {"features": "tokens, encoder frozen"}}
  rows = study_rows.summarise([one._replace(rows=[*one.rows, more])])
  assert {r["label"] for r in rows if r["name"] == results.UNTRAINED} == {results.UNTRAINED}
  assert {"knn", "segment"} <= {r["metric"] for r in rows if r["name"] == results.UNTRAINED}


def test_groups_are_in_the_order_of_families():
  c = config()
  order = lambda: list(study.read(c)[1])
  assert order() == ["sig", "sig-none"]
  c.runs["sig"].group, c.runs["sig-none"].group = "reconstruction", "contrastive"
  assert order() == ["sig-none", "sig"]


def test_seeds_that_cannot_be_averaged_are_told():
  rows = study_rows.summarise([result("a", 0, data="p"), result("a", 1, data="q")])
  row, = [r for r in rows if r["name"] == "a"]
  assert row["mean"] is None and "protocols" in row["failed"][0]


def test_intervals_are_students():
  assert study_rows.half_width(2.0, 3) == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-5)
  assert study_rows.half_width(0.0, 1) is None


def test_numbers_are_readable():
  row = lambda mean, ci95=None: {"mean": mean, "ci95": ci95}
  text = study_rows.text
  assert text(row(0.9123, 0.012), "knn") == "91.2 ± 1.2" and text(row(0.9), "knn") == "90.0"
  assert text(row(2e-5, 1e-6), "std_relative") == "2e-05"
  assert text(row(0.413, 0.01), "std_relative") == "0.41 ± 0.01"
  assert text(row(1234.5, 3), "images_per_s") == "1,234" and text(None, "knn") == "-"
