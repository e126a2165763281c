"""report.html is self-contained, its figures are PNGs that can be decoded,
and missing pieces leave it readable."""
import base64
from html.parser import HTMLParser
import io
import re

import jax
from matplotlib.image import imread
import numpy as np
import pytest

from jepa import config as configs, experiment
from jepa.evals import features as F, results
from jepa.reports import curves, metrics, open_loop, panels, run
from jepa.types import Tokens
from tests import runs

RNG = np.random.default_rng(0)


def images(b=4, size=12, channels=1):
  return RNG.integers(0, 256, (b, size, size, channels), np.uint8)


def rows_of(linear=0.97):
  protocol = {"train": "toy <train>", "test": "toy test", "step": 20, "settings": {"labels": 10}}
  rows = []
  for row, better in ((results.PIXELS, -0.1), (results.UNTRAINED, -0.2), (results.TRAINED, 0)):
    rows += [results.result(row, "linear", linear + better, protocol),
             results.result(row, "rankme", 30 + 10 * better, protocol),
             results.result(row, "lowshot", np.array([0.8, 0.9]) + better, protocol),
             results.result(row, "std", 0.5, protocol)]
  return rows


HISTORY = [{"step": i, "loss": 1 / (1 + i)} for i in range(20)] + [{"step": 10, "eval/linear": 0.9,
                                                                     "eval/rankme": 20.0, "loss": "nan"}]


class Page(HTMLParser):
  """Tags that are left open, images, and everything that a browser would fetch."""

  def __init__(self):
    super().__init__()
    self.open, self.images, self.fetched = [], [], []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in ("meta", "img", "br"):
      self.open.append(tag)
    if tag == "img":
      self.images.append(attrs["src"])
    self.fetched += [v for k, v in attrs.items() if k in ("src", "href", "srcset", "action")
                     and not v.startswith("data:")]
    assert tag not in ("script", "link", "iframe")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def parse(path):
  page = Page()
  page.feed(path.read_text(encoding="utf-8"))
  assert page.open == [] and page.fetched == []
  return page


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  at = tmp_path_factory.mktemp("run") / "figures"
  grid = (3, 3)
  context = Tokens(np.array([[0, 1, 2, 0]] * 4), np.array([[True, True, True, False]] * 4))
  targets = Tokens(np.array([[[4, 5, 7, 8], [6, 7, 0, 0]]] * 4),
                   np.array([[[True] * 4, [True, True, False, False]]] * 4))
  tokens = RNG.standard_normal((4, 9, 6))
  sets = {name: F.FeatureSet(RNG.standard_normal((4, 5)).astype(np.float32), np.arange(4) % 2,
                             RNG.standard_normal((4, 5)).astype(np.float32), np.arange(4) % 2)
          for name in results.ROWS}
  grey, colour = images(), images(channels=3)
  return {
      "views": panels.views(grey, RNG.random((2, 4, 8, 8, 1)), path=at / "views.png"),
      "masks": panels.masks(colour, context, targets, grid, path=at / "masks.png"),
      "pca": panels.pca(grey, {"untrained encoder": tokens, "trained encoder": tokens[..., :2]}, grid,
                        path=at / "pca.png"),
      "spectrum": panels.spectrum({name: f.train_x for name, f in sets.items()}, path=at / "spectrum.png"),
      "neighbours": panels.neighbours(grey, grey, sets, path=at / "neighbours.png", k=2, most=3),
  }


def test_report_is_self_contained(drawn, tmp_path):
  path = run.page(tmp_path / "report.html", title="A run", rows=rows_of(), history=HISTORY, drawn=drawn,
                  command="python -m jepa.main --config=a.py", config='{"seed": 0, "text": "</pre><b>"}',
                  revision="abc", hardware="two cores")
  text = path.read_text(encoding="utf-8")
  assert not re.search("https?://", text) and "url(" not in text and "@import" not in text
  page = parse(path)
  assert len(page.images) == 6
  for source in page.images:
    head, data = source.split(",")
    assert head == "data:image/png;base64"
    picture = imread(io.BytesIO(base64.b64decode(data)))
    assert min(picture.shape[:2]) > 100 and picture.std() > 0.01
  assert (tmp_path / "figures" / "curves.png").is_file()
  assert "<b>97.0</b>" in text and "<b>87.0</b>" not in text and "<b>85.0 ± 7.1</b>" in text
  for piece in ("python -m jepa.main --config=a.py", "abc", "two cores", "&lt;/pre&gt;", "toy &lt;train&gt;",
                "10 labels a class"):
    assert piece in text


def test_report_without_most_things(drawn, tmp_path, caplog):
  with caplog.at_level("WARNING", logger="absl"):
    path = run.page(tmp_path / "a" / "report.html", title="A <run>", rows=[], drawn={
        "masks": tmp_path / "missing.png", "Something else": drawn["views"]})
  assert "missing.png does not exist" in caplog.text
  text = path.read_text(encoding="utf-8")
  assert (len(parse(path).images) == 1 and "A &lt;run&gt;" in text and "No evaluation" in text
          and "Something else" in text)


def test_curves_of_parts(tmp_path):
  assert curves.draw(HISTORY[:1], path=tmp_path / "a.png")
  assert curves.draw([], rows_of(), path=tmp_path / "b.png")
  with pytest.raises(ValueError, match="no curve"):
    curves.draw([{"step": 0, "loss": "nan"}], path=tmp_path / "c.png")


def test_an_accuracy_that_nobody_knows_is_drawn_by_its_own_name(tmp_path, monkeypatch):
  """As of an evaluator of one's own; also where there are more of them than colours."""
  monkeypatch.setattr(metrics, "accuracies", lambda rows: [m for m in dict.fromkeys(
      r["metric"] for r in rows) if m.startswith("own")])
  names, legends = [f"own {i}" for i in range(9)], []
  monkeypatch.setattr(curves.style, "save", lambda figure, path: legends.extend(
      t.get_text() for t in figure.axes[0].get_legend().get_texts()))
  curves.draw([{"step": s} | {f"eval/{m}": 0.5 for m in names} for s in (1, 2)], path=tmp_path / "a.png")
  assert legends == names
  assert metrics.title("own 1") == "own 1, accuracy in %" and metrics.scale("own 1") == 100
  assert metrics.title("rank") == "rank" and metrics.scale("rank") == 1


def test_accuracies_are_in_the_order_of_the_table():
  found = ["knn", "rankme", "segment", "linear", "knn", "nobody's"]
  assert metrics.accuracies([{"metric": m} for m in found]) == ["linear", "knn", "segment"]


@pytest.mark.parametrize("name,shown", [("quickstart", "Views"), ("ijepa", "Masks")])
def test_the_page_of_a_run(name, shown, tmp_path):
  """What its method does to images, its tokens, features and neighbours, with only some of the rows."""
  exp = experiment.build(runs.config(name))
  features = F.FeatureSet(*(x for s in (exp.train, exp.test) for x in F.pixels(s)))
  with jax.set_mesh(exp.mesh):
    path = run.write(exp, experiment.initial_state(exp), tmp_path, rows_of(), {results.TRAINED: features})
  text = path.read_text(encoding="utf-8")
  assert re.findall("<h2>(.*?)</h2>", text) == [
      "Results", "Loss and probes while training", shown, "Feature maps", "Spectrum of the features",
      "Nearest neighbours", "The run"]
  assert len(parse(path).images) == 5 == len(list((tmp_path / "figures").glob("*.png")))


def test_pages_are_found_by_name():
  assert {"open_loop", "run", "study"} <= set(configs.names("jepa.reports", "write"))
  assert configs.module("run", "jepa.reports", entry="write") is run
  with pytest.raises(ValueError, match="did you mean 'open_loop'"):
    configs.module("open_lop", "jepa.reports", entry="write")


def test_the_picture_of_open_loop(tmp_path):
  row = lambda metric, **outcome: results.result(results.TRAINED, metric, 0.5, {"outcome": outcome})
  rows = [row("open_loop", by_step=[0.2, 0.5]), row("open_loop_still", by_step=[0.4, 0.6]),
          row("open_loop_unrelated")]
  path = open_loop.write(rows, tmp_path / "figures" / "a.png", row=results.TRAINED)
  assert imread(path).std() > 0.01
  assert open_loop.write(rows, tmp_path / "b.png", row=results.UNTRAINED) is None
  assert open_loop.write(rows[2:], tmp_path / "b.png", row=results.TRAINED) is None
  assert not (tmp_path / "b.png").exists()


def test_panels_of_degenerate_features(tmp_path):
  flat = np.ones((20, 4), np.float32)
  assert panels.spectrum({"trained encoder": flat}, path=tmp_path / "spectrum.png")
  assert panels.pca(images(), np.ones((4, 9, 1)), (3, 3), path=tmp_path / "pca.png")
  unlabelled = F.FeatureSet(flat[:4], np.full(4, -1), flat[:4], np.full(4, -1))
  assert panels.neighbours(images(), images(), {"trained encoder": unlabelled}, path=tmp_path / "n.png")


def test_principal_components_find_what_varies():
  """Tokens on a line in feature space get one colour axis, in order, whichever images they come from."""
  tokens = np.zeros((2, 4, 5))
  tokens[..., 2] = np.arange(8).reshape(2, 4)
  red = panels._principal(tokens)[..., 0].ravel()
  assert (np.diff(red) >= 0).all() and red[0] == 0 and red[-1] == 1


def test_stretch_repeats_cells():
  out = panels._stretch(np.arange(4.0).reshape(1, 2, 2, 1), (5, 4))
  assert out.shape == (1, 5, 4, 1)
  np.testing.assert_array_equal(out[0, :, :, 0], [[0, 0, 1, 1]] * 3 + [[2, 2, 3, 3]] * 2)
