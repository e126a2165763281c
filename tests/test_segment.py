"""Segmentation probe: labels and pixels of cells against loops, the score against its definition, perfect and
useless tokens, and the way from a config to the table.
"""
import jax
import numpy as np
import pytest

from jepa import evaluation, experiment
from jepa.data import source as sources
from jepa.evals import features as F, results, segment
from jepa.types import Features, Method
from tests import runs


def token_set(n=40, m=20, cells=9, k=3, noise=0.1, seed=0):
  """Tokens that say their label, under noise."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, k, (n + m, cells)).astype(np.int32)
  x = np.eye(k)[y] @ rng.standard_normal((k, 6)) + noise * rng.standard_normal((n + m, cells, 6))
  x = x.astype(np.float32)
  return segment.TokenSet(x[:n], y[:n], x[n:], y[n:])


def feature_set(tokens=None):
  """Features with an encoder behind them that gives the tokens; masks of the images give their labels."""
  flat, label = np.zeros((2, 1), np.float32), np.arange(2, dtype=np.int32)
  found = F.FeatureSet(flat, label, flat, label)
  if tokens is None:
    return found
  def source(y, first):
    image, side = np.zeros((len(y), 3, 3, 1), np.uint8), round(y.shape[1] ** 0.5)
    made = sources.from_arrays(image, np.zeros(len(y), np.int32), classes=1, describe="cells",
                                  mask=y.reshape(-1, side, side).astype(np.uint8))
    return made._replace(arrays=made.arrays | {"index": first + made.arrays["index"]})
  x = np.concatenate([tokens.train_x, tokens.test_x])
  embed = lambda params, extra, batch: Features(params[batch["index"]].mean(1), params[batch["index"]])
  return found._replace(subject=F.Subject(
      source(tokens.train_y, 0), source(tokens.test_y, len(tokens.train_y)), batch=16, params=x, extra={},
      method=Method(None, None, None, embed), tokens=lambda: x.shape[1]))


@pytest.mark.parametrize("size, grid", ((8, 4), (7, 3), (5, 5), (9, 1)))
def test_cells(size, grid):
  rng = np.random.default_rng(0)
  mask = (rng.integers(1, 4, (6, size, size)) * (rng.random((6, size, size)) < 0.3)).astype(np.uint8)
  mask[0] = 0
  found = segment.cells(mask, grid)
  assert found.dtype == np.int32 and found.shape == (6, grid ** 2)
  for n in range(6):
    for cell in range(grid ** 2):
      inside = [mask[n, y, x] for y in range(size) for x in range(size)
                if (y * grid // size) * grid + x * grid // size == cell]
      count = np.bincount(inside, minlength=4)
      expected = 1 + count[1:].argmax() if 0 < count[1:].sum() >= len(inside) / 4 else 0
      assert found[n, cell] == expected
  assert not segment.cells(np.zeros((2, size, size), np.uint8), grid).any()


def test_pixels():
  image = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 2), np.uint8)
  x = segment.pixels(image[:, :6, :6], 3)
  assert x.shape == (3, 9, 8) and x.dtype == np.float32
  np.testing.assert_array_equal(x[1, 5] * 255, image[1, 2:4, 4:6].ravel())
  odd = segment.pixels(image, 3)                    # cells of 3, 2 and 2 pixels, each given 3
  assert odd.shape == (3, 9, 18)
  np.testing.assert_allclose(odd[2, 0] * 255, image[2, :3, :3].ravel(), rtol=1e-6)
  np.testing.assert_allclose(odd[2, 8] * 255, image[2, 4:, 4:].ravel(), rtol=1e-6)
  assert segment.pixels(image, 7).shape == (3, 49, 2)


def test_scores():
  y, guess, k = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0]), 4
  confusion = np.bincount(y * k + guess, minlength=(k + 1) * k).reshape(k + 1, k)
  score, accuracy = segment.scores(confusion)
  assert score == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)      # class 3 is nowhere
  assert accuracy == pytest.approx(4 / 6)
  confusion[-1, 0] = 1                              # a class that train lacks, taken for background
  score, accuracy = segment.scores(confusion)
  assert score == pytest.approx((2 / 5 + 2 / 3 + 0 + 0) / 4) and accuracy == pytest.approx(4 / 7)


def test_perfect_and_useless_tokens():
  row, accuracy = segment.evaluate(feature_set(token_set()), row="a", seed=0)
  assert (row["metric"], accuracy["metric"]) == ("segment", "segment_accuracy")
  assert row["mean"] > 0.97 and accuracy["mean"] > 0.98
  assert row["protocol"]["outcome"]["gradient_norm"] <= 1e-4
  assert row["protocol"]["counts"] == {"train": 360, "test": 180, "dim": 6, "classes": 3, "train_images": 40,
                                       "test_images": 20, "cells": 9}
  assert segment.evaluate(feature_set(token_set()), row="a", seed=0)[0] == row
  useless, _ = segment.evaluate(feature_set(token_set(noise=100)), row="a", seed=0)
  assert 0.1 < useless["mean"] < 0.3                # chance: about 1/5 for three equal classes


def test_what_cannot_be_probed():
  with pytest.raises(ValueError, match="a: no segmentation probe, since it needs .* tokens on a square grid"):
    segment.evaluate(feature_set(), row="a", seed=0)
  blank = token_set()._replace(train_y=np.zeros((40, 9), np.int32))
  with pytest.raises(ValueError, match="two classes"):
    segment.evaluate(feature_set(blank), row="a", seed=0)
  broken = token_set()
  broken.train_x[0, 0, 0] = np.nan
  with pytest.raises(ValueError, match="a, tokens, train: 1 of 360"):
    segment.evaluate(feature_set(broken), row="a", seed=0)


def test_rows_without_masks_are_skipped(caplog):
  with caplog.at_level("INFO", logger="absl"):
    rows = evaluation.run(["segment", "finetune", "open_loop"], {results.PIXELS: feature_set()}, seed=0,
                          protocol={})
  assert rows == [] and "segment skipped, since it needs a source with masks" in caplog.text
  assert "finetune skipped, since there is no encoder" in caplog.text
  assert "open_loop skipped, since it needs a method with a world_model" in caplog.text


def test_from_a_config_to_the_table(tmp_path, capsys):
  """Three rows on scenes, from the frozen tokens of a tiny ViT; pixels know ink but not which digit it is."""
  c = runs.config("ijepa_digits", batch=16)
  c.data = dict(source="scenes", args=dict(canvas=16, size=(12, 16), channels=3), train="train[:100]",
                test="test[:60]", workers=0, prefetch=2)
  c.eval.args = dict(segment=dict(images=50, penalties=(1e-2,)))
  exp = experiment.build(c)
  with jax.set_mesh(exp.mesh):
    state = experiment.initial_state(exp)
    evaluation.final(exp, state, tmp_path, ["segment"])
  rows = results.latest(results.read(tmp_path / "results.json"))
  assert set(rows) == {(r, m) for r in results.ROWS for m in ("segment", "segment_accuracy")}
  counts = [rows[r, "segment"]["protocol"]["counts"] for r in results.ROWS]
  assert all(c["train_images"] == c["test_images"] == 50 for c in counts)
  cells = counts[0]["cells"]
  assert counts[1] == counts[2] and counts[0] | {"dim": 0} == counts[1] | {"dim": 0}
  assert counts[0]["dim"] == 3 * (16 // round(cells ** 0.5)) ** 2
  assert rows[results.TRAINED, "segment"]["mean"] == rows[results.UNTRAINED, "segment"]["mean"]
  out = capsys.readouterr().out
  assert "(patch mIoU)" in out and "kNN" not in out
  whole = evaluation.features_of(exp, state, exp.train, exp.test)
  unmasked = whole.subject._replace(test=sources.make("synthetic", "test"))
  assert segment.missing(whole) == "" != segment.missing(whole._replace(subject=unmasked))
