"""Fine-tuning: what is trained and what is not, a small network that learns, the same numbers on any mesh."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import evaluation, experiment
from jepa.data import source as sources
from jepa.evals import features as F, finetune, results
from jepa.types import Features, Method
from tests import runs

SETTINGS = dict(epochs=8, lr=1e-2, batch=32, shift=0, weight_decay=0.0, warmup=0.1, clip=1.0)


def network():
  """(embed, params, extra): weights in both trees, beside things that are not to be trained."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
  params = {"hidden": {"kernel": draw(64, 32)}, "predictor": {"kernel": draw(3, 3)},
            "late": {"scale": jnp.ones(16)}}
  extra = {"target": {"kernel": draw(32, 16)}, "norm": {"mean": jnp.zeros(16), "var": jnp.ones(16)},
           "count": jnp.int32(3), "queue": draw(4, 4)}

  def embed(params, extra, batch):
    x = batch["image"].reshape(len(batch["image"]), -1) / 255 - 0.5
    h = jax.nn.relu(x @ params["hidden"]["kernel"]) @ extra["target"]["kernel"]
    h = (h - extra["norm"]["mean"]) / jnp.sqrt(extra["norm"]["var"]) + 0 * extra["count"]
    return Features(h, (h * params["late"]["scale"])[:, None])
  return embed, params, extra


@pytest.fixture(scope="module")
def data():
  load = lambda split: sources.make("synthetic", split, n=320, size=8, channels=1, classes=4)
  return load("train"), load("test")


def test_what_the_pooled_features_depend_on_is_trained(data):
  embed, params, extra = network()
  batch = {"image": jnp.zeros((2, 8, 8, 1), jnp.uint8)}
  names = ["/".join(str(k.key) for k in path[1:]) for path, _ in
           jax.tree_util.tree_leaves_with_path((params, extra))]
  alive = finetune.used(lambda p, e: embed(p, e, batch).pooled, params, extra)
  assert {n for n, a in zip(names, alive) if a} == {"hidden/kernel", "target/kernel", "norm/mean", "norm/var",
                                                    "count"}
  _, outcome = finetune.train(embed, params, extra, *data, seed=0, **SETTINGS | dict(epochs=0.2))
  assert outcome["arrays"] == 4 and outcome["fixed_arrays"] == 6        # two kernels and the head
  assert outcome["trained"] == 64 * 32 + 32 * 16 + 16 * 4 + 4 and outcome["steps"] == 2
  assert np.isfinite(jax.tree.leaves(params)[0]).all()                  # the caller's state is still there


def test_a_gradient_that_happens_to_be_zero_is_still_trained():
  params = {"inner": jnp.ones(3), "outer": jnp.zeros(3), "idle": jnp.ones(3)}
  f = lambda p: jax.jit(lambda a, b: jnp.tanh(a) * b)(p["inner"], p["outer"])
  assert dict(zip(sorted(params), finetune.used(f, params))) == {"idle": False, "inner": True, "outer": True}


def test_it_learns_and_repeats(data):
  embed, params, extra = network()
  run = lambda **kwargs: finetune.train(embed, params, extra, *data, seed=0, **SETTINGS | kwargs)
  accuracy, outcome = run()
  assert accuracy > 0.9 and outcome["loss"] < 0.5 and outcome["steps"] == 80
  assert run() == (accuracy, outcome)
  assert run(epochs=0.2)[0] < accuracy
  on_disk = [s._replace(arrays=None) for s in data]
  again = finetune.train(embed, params, extra, *on_disk, seed=0, **SETTINGS)
  assert again == (accuracy, outcome)


def test_examples_without_a_label_are_passed_over(data):
  train, test = data
  embed, params, extra = network()
  hide = lambda s, which: s._replace(arrays=s.arrays | {"label": np.where(which, -1, s.arrays["label"])})
  half = np.arange(test.length) % 8 < 4
  accuracy, _ = finetune.train(embed, params, extra, hide(train, np.arange(320) % 8 < 4), hide(test, half),
                               seed=0, **SETTINGS)
  assert accuracy > 0.85
  _, outcome = finetune.train(embed, params, extra, hide(train, np.ones(320, bool)), test, seed=0,
                              **SETTINGS | dict(epochs=0.2))
  assert outcome["loss"] == 0


def test_translate():
  image = jnp.arange(2 * 6 * 6 * 3, dtype=jnp.uint8).reshape(2, 6, 6, 3)
  assert finetune.translate(jax.random.key(0), image, 0) is image
  seen = set()
  for i in range(40):
    moved = np.asarray(finetune.translate(jax.random.key(i), image, 2))
    assert moved.shape == image.shape and moved.dtype == np.uint8
    at = [(y, x) for y in range(-2, 3) for x in range(-2, 3)
          if (moved[0, 2:4, 2:4] == np.asarray(image)[0, 2 + y:4 + y, 2 + x:4 + x]).all()]
    seen.update(at)
    assert len(at) == 1
  assert len(seen) > 15


def test_settings_are_checked(data, monkeypatch):
  flat = np.zeros((2, 1), np.float32)
  bare = F.FeatureSet(flat, np.arange(2), flat, np.arange(2))
  embed, params, extra = network()
  pixels = bare._replace(subject=F.Subject(*data))
  encoder = bare._replace(subject=F.Subject(*data, Method(None, None, None, embed), params, extra))
  for features in (bare, pixels):
    with pytest.raises(ValueError, match="raw pixels: no fine-tuning, since there is no encoder"):
      finetune.evaluate(features, row="raw pixels", seed=0)
  with pytest.raises(ValueError, match="warmup = 1.5"):
    finetune.evaluate(encoder, row="a", seed=0, warmup=1.5)
  monkeypatch.setattr(finetune, "train", lambda *_, **settings: (0.5, {"loss": float("nan")}))
  with pytest.raises(ValueError, match="diverged.*lower config.eval.args.finetune.lr"):
    finetune.evaluate(encoder, row="a", seed=0)
  with pytest.raises(ValueError, match="finetune.epoch is not an option; did you mean 'epochs'"):
    evaluation.run(["finetune"], {"a": encoder}, seed=0, protocol={}, settings={"finetune": {"epoch": 3}})


def test_a_batch_is_rounded_up_to_what_the_mesh_splits(data, monkeypatch):
  embed, params, extra = network()
  monkeypatch.setattr(finetune, "train", lambda *_, **settings: (0.5, settings | {"loss": 1.0}))
  subject = F.Subject(*data, Method(None, None, None, embed), params, extra, pieces=8)
  flat = np.zeros((2, 1), np.float32)
  features = F.FeatureSet(flat, np.arange(2), flat, np.arange(2), subject)
  row, = finetune.evaluate(features, row="a", seed=0, batch=30)
  assert row["protocol"]["outcome"]["batch"] == 32 and row["protocol"]["settings"]["batch"] == 30


def test_from_a_config_to_the_table_on_any_mesh(tmp_path, capsys):
  rows = []
  for mesh in (dict(data=8, fsdp=1, tensor=1), dict(data=2, fsdp=2, tensor=2)):
    c = runs.config("ijepa_digits", mesh=mesh, replicated_tolerance=1.0)
    c.eval.args = dict(finetune=dict(epochs=2, batch=30))
    exp = experiment.build(c)
    with jax.set_mesh(exp.mesh):
      state = experiment.initial_state(exp)
      evaluation.final(exp, state, tmp_path / str(mesh["data"]), ["finetune"])
      jax.block_until_ready(state.params)                   # not donated
    rows.append(results.latest(results.read(tmp_path / str(mesh["data"]) / "results.json")))
  assert set(rows[0]) == {(r, "finetune") for r in (results.UNTRAINED, results.TRAINED)}
  a, b = (r[results.TRAINED, "finetune"] for r in rows)
  assert a["protocol"]["features"].startswith("pooled, encoder trained end to end")
  outcome, other = a["protocol"]["outcome"], b["protocol"]["outcome"]
  assert outcome["loss"] == pytest.approx(other["loss"], rel=1e-3) and outcome["steps"] == other["steps"]
  target = sum(x.size for x in jax.tree.leaves(exp.abstract.extra["target"]))
  width = exp.train.classes * (1 + jax.eval_shape(exp.method.embed, exp.abstract.params, exp.abstract.extra,
                                                  exp.batch).pooled.shape[-1])
  assert outcome["trained"] == target + width               # the encoder that embed reads, and only that
  assert "fine-tune" in capsys.readouterr().out
