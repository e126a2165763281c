"""Evaluators: the maths against NumPy and scikit-learn, perfect and useless features, records that survive
JSON.
"""
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from jepa import config, evaluation, experiment
from jepa.evals import classes as C, collapse, combine, features as F, knn, linear, logistic, lowshot, results
from jepa.types import Features, Method
from tests import runs


def blobs(n=200, m=120, d=8, k=4, *, apart=1.5, seed=0):
  """Gaussian classes whose centres are `apart` times their width away from the origin."""
  rng = np.random.default_rng(seed)
  centres = apart * rng.standard_normal((k, d))
  y = np.arange(n + m) % k
  x = (centres[y] + rng.standard_normal((n + m, d))).astype(np.float32)
  return F.FeatureSet(x[:n], y[:n].astype(np.int32), x[n:], y[n:].astype(np.int32))


def useless(**kwargs):
  f = blobs(**kwargs)
  rng = np.random.default_rng(7)
  return f._replace(train_x=rng.standard_normal(f.train_x.shape).astype(np.float32),
                    test_x=rng.standard_normal(f.test_x.shape).astype(np.float32))


# Features


class FakeSource:
  """As jepa.data.source.Source, with a hole where an example is unreadable."""
  length, classes, shape, describe = 7, 2, (2, 2, 1), "fake"
  arrays = None

  @staticmethod
  def get(i):
    if i == 3:
      return None
    return {"image": np.full((2, 2, 1), 51 * i % 256, np.uint8), "label": np.int32(i % 2),
            "index": np.int32(i)}


def test_collect_drops_padding_and_keeps_order():
  images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
  batches = [({"image": np.pad(images[i:i + 3], ((0, 3 - len(images[i:i + 3])),) + ((0, 0),) * 3),
               "label": np.pad(np.arange(7, dtype=np.int32)[i:i + 3], (0, 3 - len(images[i:i + 3])))},
              len(images[i:i + 3]))
             for i in (0, 3, 6)]
  def embed(batch):
    x = jnp.asarray(batch["image"], jnp.bfloat16).reshape(3, 4)
    return Features(pooled=x, tokens=jnp.stack([x, 2 * x], 1))
  x, y = F.collect(jax.jit(embed), batches)
  assert x.dtype == np.float32 and x.shape == (7, 4)
  np.testing.assert_array_equal(x[:, 0], np.arange(7))
  np.testing.assert_array_equal(y, np.arange(7))
  np.testing.assert_array_equal(F.collect(embed, batches, pool="max", put=dict)[0][:, 0], 2 * np.arange(7))
  assert F.collect(embed, batches, pool="flat")[0].shape == (7, 8)
  with pytest.raises(ValueError, match="no readable example"):
    F.collect(embed, [])


def test_extract_reads_the_pipeline(monkeypatch):
  def epoch(source, *, batch):
    for i in range(0, source.length, batch):
      yield ({"image": np.full((batch, 2), i, np.float32), "label": np.zeros(batch, np.int32)},
             min(batch, source.length - i))
  monkeypatch.setattr(F.pipeline, "epoch", epoch)
  embed = lambda params, extra, batch: Features(params * batch["image"] + extra, jnp.zeros((4, 1, 2)))
  subject = F.Subject(FakeSource, FakeSource, Method(None, None, None, embed), 2.0, 1.0, batch=4)
  x, y = F.extract(subject, FakeSource)
  assert x.shape == (7, 2) and y.shape == (7,) and x[0, 0] == 1 and x[-1, 0] == 9
  with pytest.raises(ValueError, match="unknown pool 'pool'"):
    F.extract(subject, FakeSource, pool="pool")


def test_pixels():
  x, y = F.pixels(FakeSource)
  assert x.shape == (6, 4) and x.dtype == np.float32
  np.testing.assert_allclose(x[:, 0], np.array([0, 51, 102, 204, 255, 51 * 6 % 256]) / 255, rtol=1e-6)
  np.testing.assert_array_equal(y, [0, 1, 0, 0, 1, 0])

  class InMemory(FakeSource):
    arrays = {"image": np.full((5, 2, 2, 3), 255, np.uint8), "label": np.arange(5, dtype=np.int32)}
  x, y = F.pixels(InMemory)
  assert x.shape == (5, 12) and (x == 1).all()


def test_standardise_is_safe_for_constant_dimensions():
  f = blobs()
  train = np.concatenate([f.train_x, np.full((200, 1), 0.1, np.float32)], 1)
  test = np.concatenate([f.test_x, np.full((120, 1), 5, np.float32)], 1)
  a, b = C.standardise(f._replace(train_x=train, test_x=test))
  np.testing.assert_allclose(a[:, :-1].mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(a[:, :-1].std(0), 1, atol=1e-5)
  assert (a[:, -1] == 0).all() and (b[:, -1] == 0).all()


# Linear probes


@pytest.mark.parametrize("penalty", [0.3, 0.01, 0.001])
def test_fit_equals_scikit_learn(penalty):
  f = blobs(apart=0.7)
  x, hot = jnp.asarray(f.train_x), jnp.asarray(np.eye(4, dtype=np.float32)[f.train_y])
  found = logistic.solve(x, hot, jnp.full(200, 1 / 200), jnp.float32(penalty), jnp.zeros((8, 4)),
                         jnp.zeros(4), tolerance=1e-5)
  theirs = LogisticRegression(C=1 / (penalty * 200), tol=1e-8, max_iter=5000).fit(f.train_x, f.train_y)
  assert found.gradient < 1e-5 and found.iterations < 200
  np.testing.assert_allclose(found.weight.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
  bias = found.bias - found.bias.mean()       # its mean over classes changes nothing
  np.testing.assert_allclose(bias, theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_fit_with_weights_leaves_examples_out():
  f = blobs(apart=0.7)
  hot = jnp.asarray(np.eye(4, dtype=np.float32)[f.train_y])
  start = jnp.zeros((8, 4)), jnp.zeros(4)
  w = jnp.asarray(np.arange(200) < 100, jnp.float32) / 100
  a = logistic.solve(f.train_x, hot, w, jnp.float32(0.01), *start, tolerance=1e-5)
  b = logistic.solve(f.train_x[:100], hot[:100], w[:100], jnp.float32(0.01), *start, tolerance=1e-5)
  np.testing.assert_allclose(a.weight, b.weight, atol=2e-3)


def test_fit_survives_hard_starts():
  """Separable data from a start that is confidently wrong: every softmax is saturated, plain Newton would
  blow up.
  """
  f = blobs(apart=5)
  hot = jnp.asarray(np.eye(4, dtype=np.float32)[f.train_y])
  good = logistic.solve(f.train_x, hot, jnp.full(200, 1 / 200), jnp.float32(0.01), jnp.zeros((8, 4)),
                        jnp.zeros(4), tolerance=1e-5)
  found = logistic.solve(f.train_x, hot, jnp.full(200, 1 / 200), jnp.float32(0.01), -100 * good.weight,
                         jnp.zeros(4), tolerance=1e-5)
  assert found.gradient < 1e-5
  np.testing.assert_allclose(found.weight, good.weight, atol=2e-3)


def test_a_metric_changes_the_way_and_not_the_minimum():
  f = blobs(apart=0.7)
  x = jnp.asarray(C.standardise(f)[0]) @ jax.random.normal(jax.random.key(1), (8, 40))
  x = x + 0.05 * jax.random.normal(jax.random.key(0), x.shape)           # neighbours that are nearly equal
  hot, w = jnp.asarray(np.eye(4, dtype=np.float32)[f.train_y]), jnp.full(200, 1 / 200)
  start = jnp.zeros((40, 4)), jnp.zeros(4)
  plain = logistic.solve(x, hot, w, jnp.float32(1e-3), *start, tolerance=1e-5)
  metric = logistic.metric_at(logistic.gram(x), x, *start, 1e-3)
  found = logistic.solve(x, hot, w, jnp.float32(1e-3), *start, metric, tolerance=1e-5)
  assert found.gradient < 1e-5 and found.iterations < 0.6 * plain.iterations
  np.testing.assert_allclose(found.weight, plain.weight, atol=5e-3 * np.abs(plain.weight).max())
  theirs = LogisticRegression(C=1 / (1e-3 * 200), tol=1e-8, max_iter=5000)
  theirs.fit(np.asarray(x, np.float64), f.train_y)
  np.testing.assert_allclose(found.weight.T, theirs.coef_, atol=5e-3 * np.abs(theirs.coef_).max())
  # An inverse that f32 cannot have is left out, rather than spoil the fit.
  assert np.array_equal(logistic.metric_at(jnp.full((40, 40), jnp.nan), x, *start, 1e-3).weight, np.eye(40))


def test_linear_probe():
  row, = linear.evaluate(blobs(apart=4), row="a", seed=0)
  assert row["mean"] > 0.97 and row["sd"] == 0 and row["seeds"] == 1
  outcome = row["protocol"]["outcome"]
  assert outcome["converged"] and outcome["gradient_norm"] <= 1e-5 and outcome["penalty"] in linear.GRID
  assert row["protocol"]["counts"] == {"train": 200, "test": 120, "dim": 8, "classes": 4}
  assert row["mean"] == linear.evaluate(blobs(apart=4), row="a", seed=0)[0]["mean"]
  constant = blobs()
  constant = constant._replace(train_x=np.ones_like(constant.train_x), test_x=np.ones_like(constant.test_x))
  assert linear.evaluate(constant, row="a", seed=0)[0]["mean"] == pytest.approx(0.25)


def test_linear_probe_says_when_it_has_not_converged(caplog):
  with caplog.at_level("WARNING", logger="absl"):
    row, = linear.evaluate(blobs(), row="pixels", seed=0, limit=1)
  assert not row["protocol"]["outcome"]["converged"]
  assert "gradient norm" in caplog.text


def test_lowshot_draws_are_a_function_of_seed_and_labels():
  y = blobs().train_y
  a = lowshot.draw(y, labels=5, draws=3, seed=1)
  np.testing.assert_array_equal(a, lowshot.draw(y, labels=5, draws=3, seed=1))
  assert (a != lowshot.draw(y, labels=5, draws=3, seed=2)).any() and (a[0] != a[1]).any()
  for subset in a:
    assert len(set(subset)) == 20
    np.testing.assert_array_equal(np.bincount(y[subset]), 5)


@pytest.mark.parametrize("d", [8, 50])      # fewer and more dimensions than labels
def test_lowshot_equals_scikit_learn_draw_by_draw(d):
  f = blobs(d=d, apart=0.4)
  row, = lowshot.evaluate(f, row="a", seed=3, labels=5, draws=4, penalty=0.1, tolerance=1e-5)
  x, test_x = C.standardise(f)
  theirs = [LogisticRegression(C=1 / (0.1 * 20), tol=1e-8,
                               max_iter=5000).fit(x[s], f.train_y[s]).score(test_x, f.test_y)
            for s in lowshot.draw(f.train_y, labels=5, draws=4, seed=3)]
  np.testing.assert_allclose(row["protocol"]["outcome"]["accuracies"], theirs, atol=1.01 / 120)
  assert row["mean"] == pytest.approx(np.mean(theirs), abs=0.01) and row["seeds"] == 4 and row["sd"] > 0


def test_lowshot_chooses_a_penalty_inside_the_subset():
  row, = lowshot.evaluate(blobs(apart=3), row="a", seed=0, labels=6, draws=2)
  assert row["mean"] > 0.9 and len(row["protocol"]["outcome"]["penalties"]) == 2
  again, = lowshot.evaluate(blobs(apart=3), row="a", seed=0, labels=6, draws=2)
  assert again == row


@pytest.mark.parametrize("labels", [2, 4])      # fewer than folds; 4 is one per cent of mnist5k
def test_lowshot_of_very_few_labels(labels):
  row, = lowshot.evaluate(blobs(apart=4), row="a", seed=0, labels=labels, draws=3)
  assert row["mean"] > 0.8 and row["protocol"]["settings"]["folds"] == labels
  assert len(row["protocol"]["outcome"]["penalties"]) == 3
  assert row["protocol"]["outcome"]["gradient_norm"] <= 1e-4
  assert f"({labels} labels a class)" in results.table([row])


def test_too_few_labels_is_a_clear_error():
  f = blobs()
  f.train_y[(f.train_y == 2) & (np.cumsum(f.train_y == 2) > 4)] = -1
  with pytest.raises(ValueError,
                     match="raw pixels: the low-shot probe draws 10 a class, but class 2 .* has only 4"):
    lowshot.evaluate(f, row="raw pixels", seed=0)
  with pytest.raises(ValueError, match="two classes"):
    linear.evaluate(f._replace(train_y=np.zeros_like(f.train_y)), row="a", seed=0)
  with pytest.raises(ValueError, match="penalty="):
    lowshot.evaluate(f, row="a", seed=0, labels=1)


# kNN


def test_knn_equals_scikit_learn(monkeypatch):
  f = blobs(apart=0.8)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d ** 2 / 2) / 0.07)).fit(
      unit(f.train_x), f.train_y)
  row, = knn.evaluate(f, row="a")
  assert row["mean"] == pytest.approx(theirs.score(unit(f.test_x), f.test_y), abs=1e-6)
  monkeypatch.setattr(knn, "CHUNK", 200 * 7)      # seven queries at a time, the last chunk padded
  assert knn.evaluate(f, row="a")[0]["mean"] == row["mean"]
  np.testing.assert_array_equal(knn.neighbours(f.train_x, f.test_x, k=3),
                                np.argsort(-unit(f.test_x) @ unit(f.train_x).T, 1)[:, :3])


def test_knn_of_perfect_and_useless_features():
  assert knn.evaluate(blobs(apart=6), row="a")[0]["mean"] == 1
  assert abs(knn.evaluate(useless(n=400, m=400), row="a")[0]["mean"] - 0.25) < 0.08       # chance, 3.7 sd
  assert 0 <= knn.evaluate(blobs(n=12), row="a")[0]["mean"] <= 1      # fewer than k examples


def test_labels_need_not_be_contiguous():
  f = blobs(apart=6)
  odd = f._replace(train_y=3 * f.train_y + 5, test_y=np.where(np.arange(120) < 30, 99, 3 * f.test_y + 5))
  # a class that train lacks is never right
  assert knn.evaluate(odd, row="a")[0]["mean"] == pytest.approx(0.75)


# Collapse


def test_statistics_against_their_definitions():
  rng = np.random.default_rng(0)
  z = rng.standard_normal((60, 12)) @ np.diag(np.linspace(0.1, 2, 12)) @ rng.standard_normal((12, 12)) + 3
  s = np.linalg.svd(z, compute_uv=False)
  p = s / s.sum() + 1e-7
  cov = np.cov(z, rowvar=False)
  l = np.linalg.eigvalsh(cov)
  q = l / l.sum()
  off = ~np.eye(12, dtype=bool)
  stats = collapse.statistics(z)
  assert stats["rankme"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
  assert stats["effective_rank"] == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-6)
  assert stats["std"] == pytest.approx(z.std(0, ddof=1).mean())
  assert stats["std_min"] == pytest.approx(z.std(0, ddof=1).min())
  assert stats["covariance"] == pytest.approx((cov[off] ** 2).mean())
  assert stats["correlation"] == pytest.approx((np.corrcoef(z, rowvar=False)[off] ** 2).mean())
  assert stats["std_relative"] == pytest.approx(np.sqrt(((z - z.mean(0)) ** 2).sum() / (z ** 2).sum()))
  np.testing.assert_allclose(collapse.singular_values(z.T), s, rtol=1e-6)


def test_alpha_finds_the_exponent():
  alpha, r2, first, last = collapse.power_law(np.arange(1, 201) ** -1.3)
  assert alpha == pytest.approx(1.3) and r2 == pytest.approx(1) and (first, last) == (4, 100)
  assert np.isnan(collapse.power_law(np.ones(5))[0])


def test_alarms_fire_and_do_not_fire():
  rng = np.random.default_rng(0)
  healthy = rng.standard_normal((500, 32))
  assert collapse.alarms(collapse.statistics(healthy) | {"variance_ratio": 0.5}) == []
  point = collapse.alarms(collapse.statistics(np.ones((500, 32)) + 1e-4 * healthy))
  assert any("one point" in a and "< 0.02" in a and "target receives no gradient" in a for a in point)
  flat = rng.standard_normal((500, 1)) @ rng.standard_normal((1, 32))
  line = collapse.alarms(collapse.statistics(flat))
  assert any("RankMe" in a and "few directions" in a for a in line) and any("correlation" in a for a in line)
  assert any("shrinking" in a for a in collapse.alarms(collapse.statistics(1e-3 * healthy)))
  assert any("mean target" in a for a in collapse.alarms({"variance_ratio": 0.001}))
  assert collapse.alarms(collapse.statistics(flat), levels=dict.fromkeys(collapse.LEVELS)) == []
  with pytest.raises(ValueError, match="did you mean 'rank_share'"):
    collapse.alarms({}, levels={"rank_shar": 1})
  steep = [{"row": evaluation.TRAINED, "metric": "alpha", "mean": 9.0}]
  assert "alpha 9" in evaluation.alarms(steep, {})[0]                     # a config.eval of an older workdir
  assert evaluation.alarms(steep, {"levels": {"alpha": None}}) == []
  for x in (np.zeros((20, 16)), np.ones((20, 16))):
    stats = collapse.statistics(x)
    assert stats["rankme"] == pytest.approx(1, abs=1e-3) and stats["std"] == 0 and collapse.alarms(stats)


def test_variance_ratio():
  z = np.random.default_rng(0).standard_normal((8, 5, 4))
  assert collapse.variance_ratio(jnp.asarray(0.5 * z), jnp.asarray(z)) == pytest.approx(0.25)
  assert collapse.variance_ratio(jnp.ones((8, 4)), jnp.asarray(z)) == pytest.approx(0)


# Results


def three_rows():
  return dict(zip(results.ROWS, (blobs(apart=apart) for apart in (0.5, 0.3, 3))))


@pytest.fixture(scope="module")
def measured():
  return evaluation.run(["linear", "lowshot", "knn", "collapse"], three_rows(), seed=0,
                        protocol={"data": "blobs", "step": 10, "seed": 0}, settings={"lowshot": {"draws": 3}})


def test_table(measured):
  text = results.table(measured)
  lines = text.splitlines()
  assert (len({line.rstrip() for line in lines}) == 6
          and [line.split("  ")[0] for line in lines[3:]] == list(results.ROWS))
  for title in ("linear probe", "(all labels)", "(10 labels a class)", "kNN", "RankMe", "mean feature",
                "std"):
    assert title in "\n".join(lines[:2])
  assert " ± " in lines[-1] and max(map(len, lines)) <= 110
  assert "segmentation" not in text and "fine-tune" not in text     # nobody measured them


def test_table_with_holes(measured):
  holes = [r for r in measured if (r["row"], r["metric"]) != (results.TRAINED, "knn")]
  assert results.table(holes).splitlines()[-1].split()[4:7].count("-") == 1
  none = [r for r in measured if r["metric"] != "knn"]
  assert "kNN" not in results.table(none) and " - " not in results.table(none)
  assert [c[0] for c in results.columns(none)] == ["linear", "lowshot", "rankme", "std"]
  shown = results.columns(measured)                         # asked for, and without a number
  titles, lines = results.cells(none, shown)
  assert len(titles) == len(shown) == len(lines[0][1]) and [texts[2] for _, texts, _ in lines] == ["-"] * 3


def test_columns_stand_in_order_whoever_measured_first():
  """Of rows, and of bare metrics."""
  metrics = ["linear", "lowshot", "knn", "segment", "finetune", "rankme", "std", "open_loop",
             "open_loop_still", "open_loop_mean_motion", "open_loop_shuffled", "position_error",
             "position_error_still", "position_error_encoded"]
  evaluators = {"rankme": "collapse", "std": "collapse", "steps": "knn"}
  of = lambda m: "open_loop" if m.startswith(("open_loop", "position")) else evaluators.get(m, m)
  rows = [results.result("a", m, 0.5, {"evaluator": of(m)}) for m in reversed([*metrics, "steps"])]
  assert [c[0] for c in results.columns(rows)] == metrics
  assert [c[0] for c in results.columns([{"metric": m} for m in reversed([*metrics, "steps"])])] == metrics
  assert results.columns([{"metric": "steps"}, {"metric": "segment_accuracy"}]) == ()
  assert results.table(rows).splitlines()[-1].count("50.0") == 5


def test_rows_of_an_evaluator_that_is_not_here_are_kept_and_not_shown(tmp_path, caplog):
  rows = [results.result("a", "gloss", 0.5, {"evaluator": "no_such_lab.gloss"}),
          results.result("a", "knn", 0.5, {"evaluator": "knn"})]
  with caplog.at_level("WARNING", logger="absl"):
    assert [c[0] for c in results.columns(rows)] == ["knn"]
  assert "gloss has no column: there is no no_such_lab.gloss" in caplog.text
  assert results.save(rows, tmp_path / "results.json") == rows


def test_results_survive_json(measured, tmp_path):
  path = tmp_path / "run" / "results.json"
  assert results.save(measured, path) == measured
  assert results.read(path) == json.loads(json.dumps(measured))
  newer = [dict(r, mean=0.5) for r in measured if r["metric"] == "knn"]
  later = [dict(r, mean=0.75, protocol=r["protocol"] | {"step": 20}) for r in newer]
  merged = results.save(newer + later, path)
  assert len(merged) == len(measured) + 3 and results.read(path) == json.loads(json.dumps(merged))
  assert results.latest(merged)[results.TRAINED, "knn"]["mean"] == 0.75
  assert [p.name for p in path.parent.iterdir()] == ["results.json"]
  path.write_text("[{")
  with pytest.raises(ValueError, match="not a results file"):
    results.save(measured, path)


def test_protocol_names_what_must_be_held_fixed(measured):
  for r in measured:
    assert r["protocol"]["data"] == "blobs" and isinstance(r["protocol"]["version"], int)
    assert {"evaluator", "standardisation", "counts", "settings"} <= set(r["protocol"])


def test_protocol_by_row():
  rows = evaluation.run(["knn"], three_rows(), seed=0,
                        protocol={r: {"step": i} for i, r in enumerate(results.ROWS)})
  assert [r["protocol"]["step"] for r in rows] == [0, 1, 2]


def test_errors_of_a_run():
  with pytest.raises(ValueError, match="did you mean 'linear'.*knn"):
    evaluation.run(["linaer"], three_rows(), seed=0, protocol={})
  with pytest.raises(ValueError, match="results has no evaluate.*Known: .*finetune, knn"):
    evaluation.run(["results"], three_rows(), seed=0, protocol={})
  with pytest.raises(ValueError, match="did you mean 'lowshot'"):
    evaluation.run(["knn"], three_rows(), seed=0, protocol={}, settings={"lowshots": {"draws": 3}})
  with pytest.raises(ValueError, match="config.eval.args.knn.neighbours is not an option.*temperature"):
    evaluation.run(["knn"], three_rows(), seed=0, protocol={}, settings={"knn": {"neighbours": 3}})
  rows = three_rows()
  rows[results.TRAINED].train_x[17, 2] = np.nan
  with pytest.raises(ValueError, match="trained encoder, train: 1 of 200 .* example 17"):
    evaluation.run(["knn"], rows, seed=0, protocol={})
  rows = three_rows()
  rows[results.TRAINED].test_y[:] = 0
  with pytest.raises(ValueError, match="same examples"):
    evaluation.run(["knn"], rows, seed=0, protocol={})


NAMES = config.names("jepa.evals", "evaluate")


@pytest.mark.parametrize("name", NAMES)
def test_what_every_evaluator_owes(name):
  """Columns of its own, and of every row numbers that JSON holds, the same again; or why there are none."""
  module = config.module(name, "jepa.evals", "evaluate")
  assert module.COLUMNS and module.LABELS in (True, False)
  assert all(len(c) == 4 and c[3] in ("percent", "number") for c in module.COLUMNS)
  others = [config.module(n, "jepa.evals", "evaluate").COLUMNS for n in NAMES if n != name]
  assert {c[0] for c in module.COLUMNS}.isdisjoint(c[0] for columns in others for c in columns)
  measure = lambda: evaluation.run([name], three_rows(), seed=0, protocol={"data": "blobs"})
  if not (rows := measure()):
    assert module.missing(blobs()), "features with labels: there is no reason to leave them out"
    return
  assert {r["row"] for r in rows} == set(results.ROWS)
  assert all(r["protocol"]["data"] == "blobs" and r["protocol"]["evaluator"] == name for r in rows)
  assert json.dumps(rows, allow_nan=False) == json.dumps(measure(), allow_nan=False)
  assert {c[0] for c in results.columns(rows)} == {c[0] for c in module.COLUMNS} & {r["metric"] for r in rows}
  assert results.columns(rows)


def test_unlabelled_sources_skip_what_needs_labels(caplog):
  f = blobs()
  f = f._replace(train_y=np.full_like(f.train_y, -1), test_y=np.full_like(f.test_y, -1))
  with caplog.at_level("INFO", logger="absl"):
    rows = evaluation.run(["linear", "knn", "collapse"], {results.TRAINED: f}, seed=0, protocol={})
  assert {r["protocol"]["evaluator"] for r in rows} == {"collapse"}


GLOSS = '''
"""Gloss: the share of bright pixels of the test images, of every row that has images behind it."""
from jepa.evals import results

COLUMNS = (("gloss", "gloss", "(over {level})", "percent"), ("dullness", "dullness", "", "number"))


def missing(features):
  return "" if features.subject else "it needs images"


def evaluate(features, *, row, seed, protocol, level=128):
  value = (features.subject.test.arrays["image"] > level).mean()
  record = {**protocol, "version": 1, "settings": {"level": level}}
  return [results.result(row, "gloss", value, record), results.result(row, "dullness", 1 - value, record)]
'''


def test_an_evaluator_of_another_repository(tmp_path, monkeypatch, capsys, caplog):
  """A dotted name in the config: its settings, its columns, and why it leaves a row out."""
  (tmp_path / "some_lab").mkdir()
  (tmp_path / "some_lab" / "gloss.py").write_text(GLOSS)
  monkeypatch.syspath_prepend(str(tmp_path))
  c = runs.config("ijepa_digits")
  c.eval.online, c.eval.final = ("knn",), ("collapse", "some_lab.gloss", "knn")
  c.eval.args = dict(some_lab=dict(gloss=dict(level=100)), lowshot=dict(draws=2))
  exp = experiment.build(c)
  state = experiment.initial_state(exp)
  evaluation.final(exp, state, tmp_path / "run")
  head, second, _, *body = capsys.readouterr().out.splitlines()[:6]
  assert [t.strip() for t in head.split("  ") if t] == ["kNN", "gloss", "RankMe", "mean feature", "dullness"]
  assert "(over 100)" in second and [line.split("  ")[0] for line in body] == list(results.ROWS)
  rows = results.latest(results.read(tmp_path / "run" / "results.json"))
  found = rows[results.TRAINED, "gloss"]
  assert found["protocol"]["evaluator"] == "some_lab.gloss"
  assert found["protocol"]["settings"] == {"level": 100}
  assert found["mean"] == (exp.test.arrays["image"] > 100).mean()
  scalars, _ = evaluation.online(exp, tmp_path / "run")(state, 0, {})       # its settings are no mistake here
  assert "eval/knn" in scalars and "eval/gloss" not in scalars
  with pytest.raises(ValueError, match="config.eval.args.some_lab.gloss.levels is not .* mean 'level'"):
    evaluation.run(["some_lab.gloss"], evaluation.floors(exp, exp.train, exp.test), seed=0, protocol={},
                   settings={"some_lab": {"gloss": {"levels": 3}}})
  with caplog.at_level("INFO", logger="absl"):
    assert evaluation.run(["some_lab.gloss"], three_rows(), seed=0, protocol={}) == []
  assert "some_lab.gloss skipped, since it needs images" in caplog.text
  with pytest.raises(ValueError, match="there is no some_lab.glos"):
    evaluation.run(["some_lab.glos"], three_rows(), seed=0, protocol={})


def run_of(seed, mean, **protocol):
  return [results.result(results.TRAINED, "linear", mean,
                         {"seed": seed, "step": 10, "version": 1, "outcome": {"x": mean}} | protocol)]


def test_combine():
  row, = combine.combine([run_of(s, m) for s, m in enumerate((0.9, 0.8, 1.0))])
  assert row["mean"] == pytest.approx(0.9) and row["sd"] == pytest.approx(0.1) and row["seeds"] == 3
  assert row["protocol"]["seed"] == [0, 1, 2]
  with pytest.raises(ValueError, match="differ in protocol.version: 1 and 2"):
    combine.combine([run_of(0, 0.9), run_of(1, 0.9, version=2)])
  with pytest.raises(ValueError, match="run 2 of 2 has no 'linear'"):
    combine.combine([run_of(0, 0.9), []])


def test_combine_command(tmp_path):
  for s in range(2):
    results.save(run_of(s, 0.9 + 0.02 * s), tmp_path / str(s) / "results.json")
  run = lambda *args: subprocess.run([sys.executable, "-m", "jepa.evals.combine", *map(str, args)],
                                     capture_output=True,
                                     text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
  done = run(tmp_path / "0", tmp_path / "1" / "results.json", "--out", tmp_path / "all.json")
  assert done.returncode == 0 and "91.0 ± 1.4" in done.stdout, done.stderr
  assert results.read(tmp_path / "all.json")[0]["seeds"] == 2
  for bad in (["nowhere"], [str(tmp_path / "0"), str(tmp_path / "0")]):
    with pytest.raises(SystemExit):
      combine.main(bad)
