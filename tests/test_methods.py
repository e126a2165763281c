"""The contract of a Method, over the tiny form of every config: a new paper is tested by existing."""
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import config as configs, experiment, methods
from jepa.optim import path_of
from tests import runs


# Methods whose loss is a function of its batch: whole trajectories, no views, masks or slices.
WITHOUT_DRAWS = {"dino_wm", "next_frame", "pldm", "vjepa2_ac"}


class Case:
  """A config's parts, its state at step 0, two batches and its compiled functions, made once."""

  def __init__(self, name):
    self.name = name
    self.exp = experiment.build(runs.config(name, mesh=dict(data=8, fsdp=1, tensor=1)))
    self.method = self.exp.method
    self.state = jax.device_get(experiment.initial_state(self.exp)._replace(key=0))
    self.batches = runs.batches(self.exp, 2)
    self.traces = 0
    self.step = jax.jit(self._counted_step)
    # one compilation for the loss and its gradients
    self.grad = jax.jit(jax.value_and_grad(self.method.loss, argnums=(0, 1), has_aux=True, allow_int=True))

  def loss(self, *args):
    return self.grad(*args)[0]

  def _counted_step(self, state, batch):
    self.traces += 1
    return self.exp.step(state, batch)


def once(name):
  """In every run of the tests: one config a method."""
  return name if name in runs.one_config_per_method() else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[once(n) for n in runs.CONFIGS])
def case(request):
  """One config after the other: pytest groups the tests by it."""
  yield Case(request.param)
  jax.clear_caches()


def test_every_method_has_a_config():
  import pkgutil
  written = {m.name for m in pkgutil.iter_modules(methods.__path__)}
  used = {runs.config(name).method for name in runs.CONFIGS}
  assert written == used, (
      "a file in jepa/methods needs a file in configs, whose argument `tiny` makes it small")


def test_init_is_abstract_init_and_every_leaf_has_a_rule(case):
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(case.exp.abstract.params) == shapes(case.state.params)
  assert shapes(case.exp.abstract.extra) == shapes(case.state.extra)
  assert len(jax.tree.leaves(case.exp.shardings)) == len(jax.tree.leaves(case.exp.abstract))


def test_loss_is_a_finite_f32_scalar_and_so_are_metrics(case):
  loss, (extra, metrics) = case.loss(case.state.params, case.state.extra, case.batches[0], jax.random.key(0))
  assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)
  assert metrics and all(m.shape == () and np.isfinite(m) for m in metrics.values())
  assert jax.tree.structure(extra) == jax.tree.structure(case.state.extra)


def test_gradient_reaches_every_trained_leaf_and_nothing_else(case):
  trained, rest = case.grad(case.state.params, case.state.extra, case.batches[0], jax.random.key(0))[1]
  dead = [path_of(p) for p, g in jax.tree_util.tree_leaves_with_path(trained) if not np.any(g)]
  assert not dead, f"no gradient reaches {dead}"
  leaks = [path_of(p) for p, g in jax.tree_util.tree_leaves_with_path(rest)
           if g.dtype != jax.dtypes.float0 and np.any(g)]
  assert not leaks, f"gradient leaks into extra: {leaks}"


def test_same_inputs_same_bits_and_another_key_another_draw(case):
  args = case.state.params, case.state.extra, case.batches[0]
  a, b, c = (case.loss(*args, jax.random.key(k)) for k in (0, 0, 1))
  assert runs.equal(a, b)
  assert (float(a[0]) != float(c[0])) == (case.exp.config["method"] not in WITHOUT_DRAWS)


def test_loss_reads_the_images(case):
  a, b = (case.loss(case.state.params, case.state.extra, x, jax.random.key(0))[0] for x in case.batches)
  assert float(a) != float(b)


def test_labels_reach_the_loss_of_supervised_methods_only(case):
  batch = dict(case.batches[0], label=np.zeros_like(case.batches[0]["label"]))
  a, b = (case.loss(case.state.params, case.state.extra, x, jax.random.key(0))[0]
          for x in (case.batches[0], batch))
  supervised = configs.module(case.exp.config["method"], methods.__name__).FAMILY == "supervised"
  assert (float(a) == float(b)) == (not supervised)


def test_embed_gives_pooled_and_tokens(case):
  features = jax.jit(case.method.embed)(case.state.params, case.state.extra, case.batches[0])
  assert features.pooled.ndim == 2 and features.tokens.ndim == 3
  assert features.pooled.shape[0] == features.tokens.shape[0] == 16
  assert features.tokens.shape[-1] == features.pooled.shape[-1]
  assert np.isfinite(features.pooled).all() and features.pooled.dtype == jnp.float32


def test_ema_is_its_closed_form():
  from jepa.methods import ijepa
  make = functools.partial(ijepa.make, encoder=dict(width=8, depth=1, heads=1, patch=4),
                           predictor=dict(width=8, depth=1, heads=1))
  method = make(ema=dict(kind="linear", value=0.9, end=1.0), steps=10)
  target, online = np.float32(2.0), np.float32(5.0)
  for step in range(10):
    got = method.post({"encoder": jnp.float32(online)}, {"target": jnp.float32(target)},
                      jnp.int32(step))["target"]
    momentum = 0.9 + 0.1 * step / 10
    target = momentum * target + (1 - momentum) * online
    np.testing.assert_allclose(got, target, rtol=1e-6)


def test_without_the_stop_gradient_the_contract_fails(monkeypatch):
  """The test above can fail: with stop_gradient removed, gradient reaches the EMA target."""
  case = Case("ijepa_in1k")
  monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
  grads = jax.jit(jax.grad(case.method.loss, argnums=1, has_aux=True))(
      case.state.params, case.state.extra, case.batches[0], jax.random.key(0))[0]
  assert any(np.any(g) for g in jax.tree.leaves(grads["target"]))


def test_three_steps_one_compile(case):
  state = case.state._replace(key=jax.random.key(0))
  for i in range(3):
    state, _ = case.step(state, case.batches[i % 2])
  assert case.traces == 1 and int(state.step) == 3
  assert not runs.equal(state.params, case.state.params)


def test_golden_step(case, request):
  """One step's numbers, kept in tests/golden.json; --update-golden writes them anew, and a fork needs none."""
  path, name = Path(__file__).with_name("golden.json"), case.name
  _, metrics = case.step(case.state._replace(key=jax.random.key(0)), case.batches[0])
  found = {k: float(v) for k, v in sorted(metrics.items())}
  golden = json.loads(path.read_text())
  if request.config.getoption("--update-golden"):
    golden = {k: v for k, v in sorted((golden | {name: found}).items()) if k in runs.CONFIGS}
    path.write_text(json.dumps(golden, indent=1) + "\n")
  if name not in golden:
    pytest.skip("no golden numbers: pytest -n 0 --update-golden tests/test_methods.py writes them")
  assert found == pytest.approx(golden[name], rel=1e-3, abs=1e-5)


def test_a_step_that_is_not_finite_changes_nothing(case):
  poisoned = jax.tree.map(lambda x: np.full_like(x, np.nan) if x.ndim else x, case.state.params)
  state = case.state._replace(params=poisoned, key=jax.random.key(0))
  after, metrics = case.step(state, case.batches[0])
  assert float(metrics["skipped"]) == 1.0 and int(after.step) == 1
  assert runs.equal(after.opt, state.opt)
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True),
                                   after.extra, state.extra))
