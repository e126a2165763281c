"""Durations, and the errors that a wrong config string or keyword gives."""
import sys

import ml_collections
import pytest

from jepa import config

SIZES = dict(batch=128, examples=5000)


@pytest.mark.parametrize("text,steps", [
    ("500 steps", 500), ("1 step", 1), ("500", 500), (500, 500), ("1e3 steps", 1000), (" 2.5e2steps ", 250),
    ("1e6 examples", 7812), ("128 example", 1), ("3 epochs", 117), ("1 epoch", 39), ("0.5 epochs", 20),
    ("300 epochs", 11719), (".5 epochs", 20), ("0 steps", 0)])
def test_durations_in_steps(text, steps):
  assert config.duration(text, **SIZES) == steps


def test_percentages_are_of_the_run():
  assert config.duration("5 %", **SIZES, total=400) == 20
  assert config.duration("12.5%", **SIZES, total=400) == 50
  assert config.duration("100 percent", **SIZES, total=7) == 7
  with pytest.raises(ValueError, match="'5 %'.*cannot be a percentage"):
    config.duration("5 %", **SIZES)


@pytest.mark.parametrize("text",
                         ["", "soon", "5 parsecs", "-5 steps", "1.2.3 steps", "5 steps later", ". steps"])
def test_what_is_no_duration_is_told(text):
  with pytest.raises(ValueError, match="is not a duration; write '500 steps'"):
    config.duration(text, **SIZES)


def test_epochs_need_a_length():
  with pytest.raises(ValueError, match="no known length; give steps or examples"):
    config.duration("3 epochs", batch=128, examples=0)
  assert config.duration("3 steps", batch=128, examples=0) == 3


def test_resolve_replaces_durations_and_nothing_else():
  tree = {"lr": {"kind": "cosine", "value": 1e-3, "warmup": "5 %"}, "every": ["1 epoch", "10 steps"],
          "pair": ("2 epochs", 3),
          "name": "vit", "empty": "", "number": "16", "path": "runs/300 epochs/x", "flag": True, "none": None}
  out = config.resolve(tree, **SIZES, total=400)
  assert out == tree | {"lr": tree["lr"] | {"warmup": 20}, "every": [39, 10], "pair": (78, 3)}
  assert tree["lr"]["warmup"] == "5 %", "the input was changed"
  with pytest.raises(ValueError, match="no known length"):
    config.resolve(tree, batch=128, examples=0, total=400)


def test_plain_leaves_no_config_dict():
  c = config.base()
  c.args = dict(encoder=dict(width=3), widths=(1, 2))
  out = config.plain(c)
  def check(x):
    assert not isinstance(x, (ml_collections.ConfigDict, ml_collections.FieldReference))
    for v in x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
      check(v)
  check(out)
  assert type(out["args"]["encoder"]) is dict and out["args"]["widths"] == (1, 2)


# From strings to code.


def test_module_by_name_and_by_dotted_path(tmp_path, monkeypatch):
  from jepa.methods import ijepa
  assert config.module("ijepa", "jepa.methods") is ijepa
  (tmp_path / "elsewhere_pkg").mkdir()
  (tmp_path / "elsewhere_pkg" / "__init__.py").touch()
  (tmp_path / "elsewhere_pkg" / "paper.py").write_text("answer = 42\ndef make():\n  pass\n")
  (tmp_path / "elsewhere_pkg" / "notes.py").write_text("answer = 42\n")
  (tmp_path / "elsewhere_pkg" / "broken.py").write_text("import not_installed_anywhere\n")
  monkeypatch.syspath_prepend(tmp_path)
  try:
    assert config.module("elsewhere_pkg.paper", "jepa.methods").answer == 42
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):     # its own error is not hidden
      config.module("elsewhere_pkg.broken", "jepa.methods")
    with pytest.raises(ValueError, match="elsewhere_pkg.notes has no make. Known: .*ijepa"):
      config.module("elsewhere_pkg.notes", "jepa.methods")
  finally:
    for name in [n for n in sys.modules if n.startswith("elsewhere_pkg")]:
      del sys.modules[name]


def test_an_unknown_module_gives_a_suggestion_and_a_list():
  with pytest.raises(ValueError,
                     match=r"no jepa\.methods\.ijeap; did you mean 'ijepa'\? Known: .*lejepa.*dotted path"):
    config.module("ijeap", "jepa.methods")
  for name in ("no_package_here.paper", "jepa.no_such_paper"):
    with pytest.raises(ValueError, match=f"there is no {name}.*Known: .*ijepa"):
      config.module(name, "jepa.methods")
  with pytest.raises(ValueError) as told:
    config.module("zzzzzz", "jepa.methods")
  assert "did you mean" not in str(told.value)


def inner(*, width, depth=2):
  return width * depth


def outer(*, size, encoder=None, blocks=4):
  return size + blocks + (inner(**encoder) if encoder else 0)


def test_call_passes_keywords_on():
  assert config.call(outer, "config.args", size=1, encoder=dict(width=3)) == 11
  assert config.call(lambda **anything: anything, "config.args", x=1) == {"x": 1}


def test_call_names_the_field_and_suggests():
  with pytest.raises(
      ValueError,
      match=r"config\.args\.blocs is not an option; did you mean 'blocks'\? Options: size, enc"):
    config.call(outer, "config.args", size=1, blocs=3)
  with pytest.raises(ValueError, match=r"config\.args\.size is missing: .*outer needs it"):
    config.call(outer, "config.args", blocks=3)
  with pytest.raises(
      ValueError,
      match=r"config\.args: inner has no option 'widht'; did you mean 'width'\? Options: width, depth"):
    config.call(outer, "config.args", size=1, encoder=dict(widht=3))


def test_call_suggests_for_the_parts_of_a_method():
  """Also where another imported function has the same name."""
  from jepa.methods import ijepa
  from jepa.models import text
  assert hasattr(text, "encoder")
  encoder = dict(width=8, depth=1, heads=1, patch=4)
  with pytest.raises(ValueError, match="encoder has no option 'pach'; did you mean 'patch'"):
    config.call(ijepa.make, "config.args", encoder=dict(encoder, pach=4),
                predictor=dict(width=8, depth=1, heads=1), steps=1)


def test_call_leaves_other_errors_alone():
  def fails(*, x):
    raise TypeError("a real one")
  with pytest.raises(TypeError, match="a real one"):
    config.call(fails, "config.args", x=1)


# The command line.


@pytest.mark.parametrize("path", [
    "total", "data.source", "data.args.path", "args.views.scale", "eval.args.knn.k", "plan.args.width",
    "optim.momentum", "optim.lr.end", "eval.levels.alpha"])
def test_keywords_of_factories_are_fields_also_where_the_file_has_none(path):
  config.known(config.base(), path)


def test_a_config_of_ones_own_may_have_more_fields():
  c = config.base()
  c.mine = dict(depth=3)
  config.known(c, "mine.depth")


@pytest.mark.parametrize("path,told", [
    ("totl", r"config\.totl is not a field; did you mean 'total'\? Fields: .*seed"),
    ("data.arg.path", r"config\.data\.arg\.path is not a field; did you mean 'args'\? Fields: args, "),
    ("total.steps", r"config\.total\.steps is not a field\.$")])
def test_a_field_that_no_run_has_is_told(path, told):
  with pytest.raises(ValueError, match=told):
    config.known(config.base(), path)
