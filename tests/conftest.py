"""Eight fake CPU devices, a compilation cache, and a summary that says why tests were skipped."""
import collections
import importlib.metadata
import os
import pathlib

import pytest

# Before anything imports jax; subprocesses of the tests inherit all of it.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Tests compile much and compute little. One module of LLVM a program, written without fusion emitters, is compiled
# in less than a third of the time; jaxlib 0.11 has no such choice any more, and an unknown flag is fatal.
cheap = ["backend_optimization_level=0", "cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
  cheap.append("cpu_use_fusion_emitters=false")
for flag in cheap:
  if flag.partition("=")[0] not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" --xla_{flag}"
os.environ["JAX_PLATFORMS"] = os.environ.get("JEPA_TEST_PLATFORM", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".jax_cache"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
  """Every compiled program holds memory maps, of which a process may have 65,530: a module leaves none behind."""
  yield
  import jax
  jax.clear_caches()


# They begin first, so that no process is left alone with one of them at the end.
LONGEST = ("test_parallel", "test_methods", "test_world_models", "test_worlds", "test_plan", "test_study")


def pytest_collection_modifyitems(items):
  """The longest modules first, in the order of LONGEST, the others by name."""
  place = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_addoption(parser):
  """--update-golden writes tests/golden.json anew."""
  parser.addoption("--update-golden", action="store_true", help="write the numbers of the golden step anew")


def pytest_terminal_summary(terminalreporter):
  """Writes one line per reason for which tests were skipped."""
  reasons = collections.Counter()
  for report in terminalreporter.stats.get("skipped", []):
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reasons[reason.removeprefix("Skipped: ")] += 1
  for reason, count in reasons.most_common():
    terminalreporter.write_line(f"skipped {count}: {reason}")
