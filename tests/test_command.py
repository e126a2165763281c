"""What all commands share: one line for an error, exit codes, a quick --help."""
import json
import subprocess
import sys

from PIL import Image
import pytest

from tests import runs

PROGRAM = """
from jepa import command
def work():
  {work}
command.run(work, interrupted="what is saved stays")
"""


def call(work, *options):
  return subprocess.run([sys.executable, "-c", PROGRAM.format(work=work), *options], cwd=runs.ROOT,
                        capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("work,code,said", [
    ("return None", 0, ""), ("return 75", 75, ""),
    ("raise ValueError('config.x = 3: must be 4')", 1, "\njepa: ValueError: config.x = 3: must be 4\n"),
    ("raise FileNotFoundError('no such folder')", 1, "\njepa: FileNotFoundError: no such folder\n"),
    ("raise FloatingPointError('step 3')", 1, "\njepa: FloatingPointError: step 3\n"),
    ("raise KeyboardInterrupt", 130, "\njepa: interrupted; what is saved stays\n")])
def test_exit_codes_and_one_line(work, code, said):
  done = call(work)
  assert (done.returncode, done.stderr) == (code, said)


def test_verbosity_shows_where_an_error_is_from():
  assert "Traceback" in call("raise ValueError('x')", "--verbosity=1").stderr
  assert "Traceback" in call("raise TypeError('a bug is no message')").stderr


def test_an_argument_without_dashes_is_refused():
  done = call("return 0", "workdir=runs")
  assert done.returncode == 1 and "unexpected arguments: workdir=runs" in done.stdout + done.stderr


def test_memory_is_kept_before_the_backend_starts():
  """Its settings do not reach arenas that exist already."""
  work = """
  import jax._src.xla_bridge as bridge
  assert not bridge.backends_are_initialized()
  import jepa.train
  assert not bridge.backends_are_initialized()"""
  assert call(work.strip()).returncode == 0


def test_help_imports_nothing_heavy():
  done = subprocess.run([sys.executable, "-X", "importtime", "-m", "jepa.main", "--help"], cwd=runs.ROOT,
                        capture_output=True, text=True, timeout=60)
  imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
  assert "--workdir" in done.stdout and "jepa.command" in imported
  assert not imported & {"jax", "flax", "optax", "orbax.checkpoint", "matplotlib", "jepa.train"}


def test_own_pictures_on_the_command_line(tmp_path):
  """Settings of a source that the config file does not mention; what is wrong with them is one line."""
  def main(*options):
    return subprocess.run(
        [sys.executable, "-m", "jepa.main", "--config=configs/quickstart.py:tiny",
         f"--workdir={tmp_path / 'run'}", "--config.data.source=folder", "--config.data.args={}", *options],
        cwd=runs.ROOT, capture_output=True, text=True, timeout=200)
  for kind in ("cats", "dogs"):
    (tmp_path / "pets" / kind).mkdir(parents=True)
    for i in range(20):
      Image.new("RGB", (20, 24), (12 * i, 90 if kind == "cats" else 160, 40)).save(
          tmp_path / "pets" / kind / f"{i}.png")
  path = f"--config.data.args.path={tmp_path / 'pets'}"
  done = main(path, "--config.data.args.size=16", "--config.log.tensorboard=False", "--config.optim.b2=0.95")
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / "run" / "results.json").read_text())
  assert "folder pets" in rows[0]["protocol"]["train"]
  assert json.loads((tmp_path / "run" / "config.json").read_text())["optim"]["b2"] == 0.95
  for options, said in (((path, "--config.data.args.sise=16"), "did you mean 'size'?"),
                        ((path, "--config.totl=3"), "config.totl is not a field; did you mean 'total'?")):
    done = main(*options)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
