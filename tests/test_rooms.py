"""The house: what jepa.main needs is read in an afternoon, imports run downhill, and no room is too large."""
import ast
import functools

import pytest

from tests.runs import ROOT

# Rooms, low to high; the files of a line do not know those of a line further down. A room is a file or a
# folder.
ROOMS = (
    "types config text command",
    "schedules losses masks views photometric",
    "models",
    "methods",
    "optim state sharding",
    "checkpoint logs",
    "data",
    "worlds",
    "wrappers",
    "experiment initial",
    "planning",
    "evals",
    "reports",
    "evaluation",
    "train",
    "recipes peers",
    "main evaluate plan study bench catalogue",
)
LEVEL = {room: level for level, line in enumerate(ROOMS) for room in line.split()}
FILES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
         for p in sorted((ROOT / "jepa").rglob("*.py"))}


@functools.cache
def imports(name: str) -> frozenset[str]:
  """Modules of the project that a module imports, also inside of functions, and the packages they are in."""
  found = set()
  for node in ast.walk(ast.parse(FILES[name].read_text())):
    if isinstance(node, ast.Import):
      found |= {a.name for a in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{name}: imports are absolute"
      found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
  parents = {".".join(n.split(".")[:i]) for n in found for i in range(1, n.count(".") + 2)}
  return frozenset((found | parents) & FILES.keys() - {name})


def outside(name: str) -> set[str]:
  """The packages that a module imports from, also inside of functions."""
  tree = ast.parse(FILES[name].read_text())
  used = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
  used |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
  return {u.partition(".")[0] for u in used}


def lines(name: str) -> int:
  return len(FILES[name].read_text().splitlines())


def closure(name: str) -> set[str]:
  """All modules that are needed to follow `name`; a package whose __init__ says nothing is none to read."""
  seen, todo = set(), {name}
  while todo:
    seen |= todo
    todo = {other for one in todo for other in imports(one)} - seen
  return {n for n in seen if FILES[n].name != "__init__.py" or lines(n) > 2}


def test_training_is_read_in_an_afternoon():
  """From the command to the saved checkpoint and the evaluation's door."""
  needed = closure("jepa.main")
  total = sum(map(lines, needed))
  told = "\n".join(f"{lines(n):5} {n}" for n in sorted(needed))
  print(f"{told}\n{total:5} in {len(needed)} files")
  assert len(needed) <= 20 and total <= 3000, told
  for found_by_name in ("models", "methods", "worlds", "planning", "reports"):
    assert not any(n.startswith(f"jepa.{found_by_name}") for n in needed), found_by_name


def room(name: str) -> str:
  return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"jepa"}))
def test_imports_run_downhill(name):
  assert room(name) in LEVEL, f"a new room: say in ROOMS how high jepa/{room(name)} is"
  higher = {other for other in imports(name) - {"jepa"} if LEVEL[room(other)] > LEVEL[room(name)]}
  assert not higher, f"{name} is lower than {higher}: look them up by name (jepa.config.module), or move it"


def test_no_circle_of_imports():
  """Nobody is needed by what it needs, whole packages aside, which the files in them come after."""
  needs = {n: imports(n) - {".".join(n.split(".")[:i]) for i in range(1, n.count(".") + 1)} for n in FILES}
  done: list[str] = []
  while ready := [n for n in needs if n not in done and needs[n] <= set(done)]:
    done += ready
  left = sorted(set(needs) - set(done))
  assert not left, f"in a circle, or behind one: {left}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_functions_and_lines_are_short(name):
  text = FILES[name].read_text()
  assert lines(name) <= 400
  wide = [i for i, line in enumerate(text.splitlines(), 1) if len(line) > 110]
  assert not wide, f"over 110 columns: lines {wide}"
  functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
  long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 80}
  assert not long, f"over 80 lines: {long}"


def test_losses_masks_and_views_know_jax_alone():
  known = {"jax", "numpy", "math", "functools", "itertools", "inspect", "collections", "typing", "jepa"}
  for name in FILES:
    if room(name) in ("losses", "masks", "views", "photometric", "schedules"):
      assert outside(name) <= known, name


def test_only_models_know_flax():
  users = {name for name in FILES if "flax" in outside(name)}
  assert users and {room(name) for name in users} == {"models"}


def test_the_rules_can_be_broken(monkeypatch):
  """A file that imports upwards, and two that need each other, are found."""
  low = frozenset({"jepa.train", "jepa"})
  real = imports
  monkeypatch.setattr(f"{__name__}.imports", lambda name: low if name == "jepa.types" else real(name))
  with pytest.raises(AssertionError, match="is lower than"):
    test_imports_run_downhill("jepa.types")
  with pytest.raises(AssertionError, match="in a circle"):
    test_no_circle_of_imports()
