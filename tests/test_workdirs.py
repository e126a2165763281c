"""Workdirs that earlier code wrote go on, are evaluated and planned with, and give the numbers that it gave.

tests/workdirs.tar.xz was made by commit b2eeb304969c: runs of four steps stopped after two (`image`: I-JEPA;
`world`: PLDM in Two Rooms, with a memory) and half of a study (`study`), and what that code made of the rest
(*.json beside them). Numbers of another processor differ in the last digits, and so an accuracy by an example
or two.
"""
import json
import subprocess
import sys
import tarfile

from ml_collections import ConfigDict
import pytest

from jepa import initial, study, train
from tests import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("written")
  with tarfile.open(runs.ROOT / "tests" / "workdirs.tar.xz") as archive:
    archive.extractall(path, filter="data")
  return path / "workdirs"


def read(path):
  return json.loads(path.read_text())


def alike(found, expected):
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key


@pytest.mark.parametrize("name,evaluators", [("image", ("knn", "collapse")), ("world", ("collapse",))])
def test_a_run_goes_on(folder, name, evaluators):
  workdir, expected = folder / name, read(folder / f"{name}.expected.json")
  c = initial.saved_config(workdir)
  c.eval.final = evaluators       # not all that it had, which take long to compile
  assert train.run(c, workdir) == 0
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 2, 3, 4]
  for found, wanted in zip(lines, expected["metrics"]):
    alike({k: v for k, v in found.items() if k in wanted}, wanted)
  rows = {(r["row"], r["metric"]): r for r in read(workdir / "results.json")}
  wanted = [r for r in expected["results"] if r["protocol"]["evaluator"] in evaluators]
  assert rows.keys() == {(r["row"], r["metric"]) for r in wanted} and wanted
  for r in wanted:
    found = rows[r["row"], r["metric"]]
    free = 0.15 if r["metric"] == "knn" else 1e-4
    assert found["mean"] == pytest.approx(r["mean"], rel=2e-3, abs=free), r["metric"]
    assert found["protocol"].keys() == r["protocol"].keys()
    assert found["protocol"]["train"] == r["protocol"]["train"]


def test_a_world_model_plans(folder, tmp_path):
  """As it did, from the checkpoint in the middle."""
  workdir, expected = folder / "world", read(folder / "world.planned.json")
  done = subprocess.run(
      [sys.executable, "-m", "jepa.plan", f"--workdir={workdir}", "--checkpoint=2", "--episodes=6",
       "--budget=30", "--planner=shooting", "--horizon=4", "--every=2", "--set=samples=16", "--landscapes=0",
       "--rows=straight line,trained model"],
      capture_output=True, text=True, timeout=280, cwd=runs.ROOT)
  assert done.returncode == 0, done.stderr
  found = read(workdir / "planning" / "results.json")
  assert list(found["rows"]) == ["straight line", "trained model"]
  for row in found["rows"]:
    numbers = expected["rows"][row]
    assert found["rows"][row].keys() == numbers.keys()
    assert abs(found["rows"][row]["successes"] - numbers["successes"]) <= 1, row
  assert {k: v for k, v in found.items() if k not in ("rows", "facts")} == {
      k: v for k, v in expected.items() if k not in ("rows", "facts")}


def test_a_study_goes_on(folder, capsys):
  workdir, expected = folder / "study", read(folder / "study.expected.json")
  before = (workdir / "sig" / "seed0" / "results.json").stat().st_mtime_ns
  assert study.run(ConfigDict(read(folder / "study.config.json")), workdir) == 0
  assert "1 of 2 runs are complete" in capsys.readouterr().err
  assert (workdir / "sig" / "seed0" / "results.json").stat().st_mtime_ns == before
  timed = ("images_per_s", "seconds")
  key = lambda r: (r["name"], r["group"], r["metric"])
  found = {key(r): r for r in read(workdir / "results.json") if r["metric"] not in timed}
  wanted = {key(r): r for r in expected["results"] if r["metric"] not in timed}
  assert found.keys() == wanted.keys()
  for k, r in wanted.items():
    assert found[k]["mean"] == pytest.approx(r["mean"], rel=2e-3, abs=0.15), k
  titles = lambda text: text.splitlines()[0]
  assert titles((workdir / "table.md").read_text()) == titles(expected["table"])
