"""What the repository holds and what the package promises."""
import importlib.metadata
import pathlib
import re
import subprocess

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOP = {"README.md", "setup.py", "LICENSE", "jepa", "configs", "launch", "tests", "third_party"}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
  if not (ROOT / ".git").exists():
    pytest.skip("not a git checkout")
  done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
  return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_top_level(tracked):
  top = {name.split("/")[0] for name in tracked}
  assert {name for name in top if not name.startswith(".")} <= TOP


def test_no_address_of_a_package_registry(tracked):
  hosts = ["pypi" + ".org", "python" + "hosted.org", "conda." + "anaconda.org", "download." + "pytorch.org"]
  found = [name for name in tracked for host in hosts if host.encode() in (ROOT / name).read_bytes()]
  assert not found


def test_nothing_is_unpickled():
  risky = re.compile(r"pickle\.loads?\(|allow_pickle\s*=\s*True|^\s*(import|from) (cloud)?pickle\b", re.M)
  assert not [str(path) for path in (ROOT / "jepa").rglob("*.py") if risky.search(path.read_text())]


def test_license_is_apache():
  text = (ROOT / "LICENSE").read_text()
  assert "Apache License" in text and "Version 2.0, January 2004" in text


def test_every_folder_of_the_package_is_installed():
  folders = {path.parent for path in (ROOT / "jepa").rglob("*.py")}
  assert not [folder for folder in folders if not (folder / "__init__.py").exists()]  # find_packages skips it


def test_jax_is_one_that_the_package_supports():
  version = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))
  assert (0, 10) <= version < (0, 12)


def test_tests_run_on_eight_cached_devices():
  assert jax.config.jax_compilation_cache_dir
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
  assert jax.config.jax_persistent_cache_min_entry_size_bytes == 0
  if jax.default_backend() == "cpu":
    assert jax.device_count() == 8
