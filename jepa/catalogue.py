"""The table of methods in Markdown, made from the code:
python -m jepa.catalogue [--check README.md | --write README.md]

A row is a module of jepa/methods: its constants NAME, PAPER, FAMILY and PREVENTS (what keeps the
representation from collapsing), its length, the config that runs it, and its numbers in
configs/compare.results.json (the results.json of that study), "not run" where there are none ("-" for world
models, which have no classes to tell). --check exits with 1 where the table between <!-- methods --> and
<!-- /methods --> differs from the code's; --write replaces it.
"""
import argparse
from collections.abc import Mapping, Sequence
import importlib
import json
from pathlib import Path
import re
import sys
from types import ModuleType
from typing import Any

from jepa import config, recipes
from jepa.reports import study_rows
from jepa.reports.study_rows import FAMILIES

ROOT = Path(__file__).parents[1]
PACKAGE = "jepa.methods"
BEGIN, END = "<!-- methods -->", "<!-- /methods -->"
RESULTS = "compare.results.json"        # in the folder of configs
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def table(package: str = PACKAGE, folder: Path = ROOT) -> str:
  """The table of the modules of `package`; `folder` holds configs/, and links are relative to it.

  Raises:
    ValueError: the results are not those of a study.
  """
  folder = Path(folder)
  configs, results = configs_of(folder / "configs"), _results(folder / "configs" / RESULTS)
  head = ["method", "paper", "file", "lines", "what prevents collapse", "config", "kNN", "linear"]
  body, family = [], None
  for module in modules(package):
    path, name = Path(module.__file__).resolve(), module.__name__.rpartition(".")[2]
    if (now := getattr(module, "FAMILY", "")) != family and now:
      body.append([f"*{now}*", *[""] * (len(head) - 1)])
    family = now
    missing = "-" if now == "world model" else "not run"        # what it is for is planning
    own = configs.get(name, []) + configs.get(module.__name__, [])
    own = [c for c in own if c.stem == name] or own             # the one of its name is enough
    body.append([getattr(module, "NAME", name), _paper(module), _link(path, folder),
                 str(len(path.read_text().splitlines())), getattr(module, "PREVENTS", "-"),
                 ", ".join(_link(c, folder) for c in own) or "-",
                 *(study_rows.text(r, m) if (r := results.get((name, m))) else missing
                   for m in ("knn", "linear"))])
  line = lambda texts: "| " + " | ".join(t.replace("|", "\\|") for t in texts) + " |"
  rule = "| " + " | ".join("---:" if h in ("lines", "kNN", "linear") else "---" for h in head) + " |"
  return "\n".join([line(head), rule, *map(line, body)])


def modules(package: str = PACKAGE) -> list[ModuleType]:
  """The modules of a package of methods: families in the order of FAMILIES, then other ones, then what has
  none; in each the oldest first."""
  found = [importlib.import_module(f"{package}.{name}") for name in config.names(package)]
  family = lambda f: (FAMILIES.index(f) if f in FAMILIES else len(FAMILIES), not f, f)
  return sorted(found, key=lambda m: (family(getattr(m, "FAMILY", "")), _date(m),
                                      getattr(m, "NAME", m.__name__).lower()))


def configs_of(folder: Path) -> dict[str, list[Path]]:
  """method -> the files of `folder` that run it, sorted; without studies and files that have no tiny form."""
  found: dict[str, list[Path]] = {}
  for path in sorted(folder.glob("*.py")):
    try:
      c = recipes.of_file(str(path), path.stem, "tiny")
    except Exception:       # whatever it is, the file's own tests tell
      continue
    if "study" not in c and "method" in c:
      found.setdefault(c["method"], []).append(path)
  return found


def replace(text: str, generated: str) -> str:
  """`text` with the table between the markers replaced.

  Raises:
    ValueError: the markers are not there once each, in order.
  """
  before, begin, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end) or text.count(BEGIN) != 1 or text.count(END) != 1:
    raise ValueError(f"no place for the table: write the lines {BEGIN} and {END}, once each, around it")
  return f"{before}{BEGIN}\n{generated}\n{END}{after}"


def _results(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
  """(name, metric) -> row of a study's results.json; empty where there is no file."""
  if not path.exists():
    return {}
  try:
    return {(r["name"], r["metric"]): r for r in json.loads(path.read_text())
            if r["group"] != study_rows.FLOOR and r["mean"] is not None}
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(f"{path} is not the results.json of a study ({error!r}); copy it from the workdir of "
                     "python -m jepa.study") from error


def _reference(module: ModuleType) -> str:
  """Where a method was published: its constant PAPER, or what the first paragraph of its docstring names."""
  if hasattr(module, "PAPER"):
    return module.PAPER
  first = (module.__doc__ or "").split("\n\n")[0]
  return f"arXiv {', '.join(_ARXIV.findall(first))}" if _ARXIV.search(first) else ""


def _paper(module: ModuleType) -> str:
  """The reference, its arXiv identifiers as links."""
  text = re.sub(r"arXiv[: ]\s*(?=\d{4}\.)", "", _reference(module))
  return _ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", text) or "-"


def _date(module: ModuleType) -> str:
  """A key that sorts by year, and by month where arXiv tells it."""
  reference = _reference(module)
  if found := _ARXIV.search(reference):
    return f"20{found[1][:4]}"
  year = re.search(r"\b(19|20)\d\d\b", reference)
  return f"{year[0]}00" if year else "9999"


def _link(path: Path, folder: Path) -> str:
  path, folder = path.resolve(), folder.resolve()
  where = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
  return f"[{path.stem}]({where})"


def main(argv: Sequence[str] | None = None, *, package: str = PACKAGE, folder: Path = ROOT) -> int:
  """Prints, checks or writes the table; returns an exit code."""
  parser = argparse.ArgumentParser(prog="python -m jepa.catalogue", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  what = parser.add_mutually_exclusive_group()
  what.add_argument("--check", type=Path, metavar="FILE", help="exit with 1 if the table in FILE differs")
  what.add_argument("--write", type=Path, metavar="FILE", help="replace the table in FILE")
  args = parser.parse_args(argv)
  path = args.check or args.write
  try:
    generated = table(package, folder)
    if path is None:
      print(generated)
      return 0
    old = path.read_text()
    new = replace(old, generated)
  except (ValueError, OSError) as error:
    print(f"jepa: {f'{path}: ' if path else ''}{error}", file=sys.stderr)
    return 1
  if args.write:
    path.write_text(new)
  elif new != old:
    differing = [line for line in new.splitlines() if line not in old.splitlines()]
    print(f"{path}: the table of methods is not that of the code; run "
          f"python -m jepa.catalogue --write {path}", *differing, sep="\n", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
