"""The table of methods says what the code says."""
import json
import sys

import pytest

from jepa import catalogue
from tests import runs

METHOD = '''"""{doc}

  L = loss
"""
{constants}

def make(*, steps):
  return None
'''
CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
  {body}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
  """(name of a package of methods, folder with its configs)."""
  folder = tmp_path / "fake_methods"
  folder.mkdir()
  constants = lambda *values: f"NAME, PAPER, FAMILY = {values!r}\nPREVENTS = 'a | b'\n"
  for name, doc, text in (
      ("old", "Old (1999).", constants("Old", "NIPS 1999", "contrastive")),
      ("newer", "Newer.", constants("Newer", "arXiv 2105.00001, 2105.00002", "contrastive")),
      ("zebra", "Zebra.", constants("Zebra", "arXiv 1901.00001", "supervised")),
      ("bare", "Bare (Someone, 2020, arXiv 2002.05709): no constants.", "")):
    (folder / f"{name}.py").write_text(METHOD.format(doc=doc, constants=text))
  (folder / "__init__.py").write_text("")
  (folder / "_private.py").write_text("raise RuntimeError\n")
  (tmp_path / "configs").mkdir()
  for name, body in (("old", "return ConfigDict(dict(method='old'))"),
                     ("old_big", "return ConfigDict(dict(method='old'))"),
                     ("newer_small", "return ConfigDict(dict(method='fake_methods.newer'))"),
                     ("compare", "return ConfigDict(dict(study={}, runs={}, method='old'))"),
                     ("no_tiny", "raise ValueError(arg)")):
    (tmp_path / "configs" / f"{name}.py").write_text(CONFIG.format(body=body))
  monkeypatch.syspath_prepend(tmp_path)
  yield "fake_methods", tmp_path
  for name in [m for m in sys.modules if m.split(".")[0] == "fake_methods"]:
    del sys.modules[name]


def cells(line):
  return [c.strip().replace("\\|", "|") for c in line.replace("\\|", "\0").strip("|").split("|")]


def test_rows_in_the_order_of_families_and_years(package):
  lines = catalogue.table(*package).splitlines()
  assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
  names = [cells(line)[0] for line in lines[2:]]
  assert names == ["*contrastive*", "Old", "Newer", "*supervised*", "Zebra", "bare"]


def test_a_row(package):
  name, folder = package
  rows = {cells(line)[0]: cells(line) for line in catalogue.table(name, folder).splitlines()}
  length = len((folder / "fake_methods/old.py").read_text().splitlines())
  assert rows["Old"][1:4] == ["NIPS 1999", "[old](fake_methods/old.py)", str(length)]
  assert rows["Old"][5:] == ["[old](configs/old.py)", "not run", "not run"]
  assert "a \\| b" in catalogue.table(name, folder)
  assert rows["Newer"][1] == ("[2105.00001](https://arxiv.org/abs/2105.00001), "
                              "[2105.00002](https://arxiv.org/abs/2105.00002)")
  assert rows["Newer"][5] == "[newer_small](configs/newer_small.py)"
  assert rows["bare"][1] == "[2002.05709](https://arxiv.org/abs/2002.05709)"
  assert rows["bare"][4:6] == ["-", "-"]


def test_numbers_of_the_study(package):
  name, folder = package
  row = dict(name="old", label="Old", group="contrastive", x=None, sd=0.01, seeds=3, failed=[])
  (folder / "configs/compare.results.json").write_text(json.dumps([
      row | dict(metric="knn", mean=0.912, ci95=0.013), row | dict(metric="linear", mean=0.95, ci95=None),
      row | dict(name="newer", metric="failed", mean=None, ci95=None, seeds=0)]))
  rows = {cells(line)[0]: cells(line) for line in catalogue.table(name, folder).splitlines()}
  assert rows["Old"][6:] == ["91.2 ± 1.3", "95.0"] and rows["Newer"][6:] == ["not run", "not run"]
  (folder / "configs/compare.results.json").write_text("[1]")
  with pytest.raises(ValueError, match="compare.results.json is not the results.json of a study"):
    catalogue.table(name, folder)


def test_check_and_write(package, capsys):
  name, folder = package
  readme = folder / "README.md"
  call = lambda option: catalogue.main([option, str(readme)], package=name, folder=folder)
  readme.write_text("# Title\n")
  assert call("--check") == 1 and "write the lines <!-- methods -->" in capsys.readouterr().err
  readme.write_text("# Title\n\n<!-- methods -->\nold\n<!-- /methods -->\n\nThe end.\n")
  assert call("--check") == 1 and "--write" in capsys.readouterr().err
  assert call("--write") == 0 and call("--check") == 0
  text = readme.read_text()
  assert text.startswith("# Title\n\n<!-- methods -->\n| method |")
  assert text.endswith("|\n<!-- /methods -->\n\nThe end.\n")
  assert catalogue.main([], package=name, folder=folder) == 0
  assert capsys.readouterr().out.strip() in text


def stale(readme, table):
  """Lines of the table in a README that the code's does not have; the others are in its order."""
  written = readme.partition(catalogue.BEGIN)[2].partition(catalogue.END)[0].strip().splitlines()
  kept = [line for line in table.splitlines() if line in written]
  assert kept == [line for line in written if line in kept] and len(kept) > 2
  return [line for line in written if line not in kept]


def test_a_readme_may_lack_methods_and_not_be_wrong_about_any(package, capsys):
  """As in a fork, which adds methods and leaves the table to its maintainers; --check, theirs, is strict."""
  name, folder = package
  (folder / "README.md").write_text(catalogue.replace(
      f"{catalogue.BEGIN}\n{catalogue.END}", catalogue.table(name, folder)))
  (folder / "fake_methods/mine.py").write_text("def make(*, steps):\n  return None\n")
  (folder / "fake_methods/half_done.py").write_text("import nothing_that_there_is\n")
  (folder / "fake_methods/other.py").write_text("FAMILY = 'of our own'\ndef make(*, steps):\n  return None\n")
  (folder / "configs/mine.py").write_text(CONFIG.format(body="return ConfigDict(dict(method='mine'))"))
  (folder / "configs/ours.py").write_text(CONFIG.format(body="return ConfigDict(dict(study={}, runs={}))"))
  (folder / "configs/broken.py").write_text("import nothing_that_there_is\n")
  table, readme = catalogue.table(name, folder), (folder / "README.md").read_text()
  assert [cells(line)[0] for line in table.splitlines()][-4:] == ["*of our own*", "other", "bare", "mine"]
  assert cells(table.splitlines()[-1])[1:6] == ["-", "[mine](fake_methods/mine.py)", "2", "-",
                                                "[mine](configs/mine.py)"]
  assert stale(readme, table) == []
  assert catalogue.main(["--check", str(folder / "README.md")], package=name, folder=folder) == 1
  assert "mine" in capsys.readouterr().err
  (folder / "fake_methods/old.py").write_text((folder / "fake_methods/old.py").read_text() + "\nmore = 1\n")
  line, = stale(readme, catalogue.table(name, folder))
  assert cells(line)[0] == "Old"


def test_the_methods_of_this_repository():
  lines = catalogue.table().splitlines()
  found = [line for line in lines[2:] if not line.startswith("| *")]
  assert len(found) == len(catalogue.modules()) >= 2
  for line in found:
    path = cells(line)[2].partition("](")[2].rstrip(")")
    assert (runs.ROOT / path).is_file(), line
  assert max(len(c) for line in found for c in cells(line) if not c.startswith("[")) < 60


def test_the_readme_has_todays_table():
  """All that it says is true; a fork's methods need not be there. Else: python -m jepa.catalogue --write
  README.md."""
  assert stale((runs.ROOT / "README.md").read_text(), catalogue.table()) == []
