"""One curve on any mesh: eight fake devices, arranged in four ways, against one device; pmap as an oracle;
two processes."""
import functools
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jepa import experiment, logs, optim, sharding, state as states
from jepa.losses import prediction
from jepa.models import vit
from jepa.types import Features, Method
from tests import runs

MESHES = [dict(data=8, fsdp=1, tensor=1), dict(data=2, fsdp=4, tensor=1),
          dict(data=1, fsdp=8, tensor=1), dict(data=2, fsdp=2, tensor=2)]
STEPS = 3
FAST = ("lejepa", "ijepa", "mocov2", "dino")
# Losses that are means over examples: nothing but gradients crosses the batch.
EACH = ("aim", "bigan", "byol", "dae", "data2vec", "dino_wm", "dreamer", "mae", "next_frame", "simmim",
        "simsiam", "supervised", "vae", "vjepa2_ac")
# With the statistics of another that is tried: a queue-less InfoNCE, SIGReg's moments, DINO's centre, VICReg's
# terms.
ALIKE = ("ibot", "lewm", "mocov3", "pldm", "visreg")


def curve(exp, on_mesh: bool, steps: int = STEPS):
  """Losses, gradient norms and the last state of a few steps: sharded over exp's mesh, or on one device."""
  losses = []
  if on_mesh:
    on_batch = sharding.of_batch(exp.mesh)
    step = jax.jit(exp.step, in_shardings=(exp.shardings, on_batch),
                   out_shardings=(exp.shardings, sharding.replicated(exp.mesh)))
    with jax.set_mesh(exp.mesh):
      state = experiment.initial_state(exp)
      for batch in runs.batches(exp, steps):
        state, metrics = step(state, jax.device_put(batch, on_batch))
        losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(losses), state
  step = jax.jit(exp.step)
  state = jax.device_put(experiment.initial_state(exp), jax.devices()[0])
  for batch in runs.batches(exp, steps):
    state, metrics = step(state, batch)
    losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
  return np.array(losses), state


@functools.cache
def reference(name):
  """On one device, all four steps of the tiny run."""
  return curve(experiment.build(runs.config(name, mesh=MESHES[0])), on_mesh=False, steps=4)[0]


def crossing(name):
  """In every run of the tests: the methods with statistics over the batch that are not tried on every mesh, one of
  a kind."""
  slow = runs.METHODS[name] in EACH + ALIKE or name in FAST
  return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.mark.parametrize("name", [crossing(n) for n in runs.one_config_per_method()])
def test_every_method_is_the_same_on_eight_devices(name):
  """Loss, gradients, and what a step leaves in `extra`: batch statistics, queues, centres, codes."""
  exp = experiment.build(runs.config(name, mesh=MESHES[1], replicated_tolerance=1.0))
  batch = runs.batches(exp, 1)[0]
  gradient = jax.value_and_grad(exp.method.loss, has_aux=True)
  key = jax.random.key(1)
  with jax.set_mesh(exp.mesh):
    state = experiment.initial_state(exp)
    on_batch = sharding.of_batch(exp.mesh)
    many = jax.jit(gradient)(state.params, state.extra, jax.device_put(batch, on_batch), key)
  one = jax.device_put((state.params, state.extra), jax.devices()[0])
  (loss, (extra, metrics)), grads = jax.jit(gradient)(*one, batch, key)
  (loss_8, (extra_8, metrics_8)), grads_8 = jax.device_get(many)
  np.testing.assert_allclose(loss_8, loss, rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5),
               (extra_8, metrics_8), jax.device_get((extra, metrics)))
  size = float(optax.tree.norm(grads))
  distance = jax.tree.map(lambda a, b: np.linalg.norm(np.ravel(a - b)), grads_8, jax.device_get(grads))
  assert max(jax.tree.leaves(distance)) < 1e-3 * size, distance


def meshed():
  """All methods on all meshes; in every run of the tests one method a kind of state (none, statistics, target, queue)
  on the one with all axes, and the first on all."""
  for name in runs.one_config_per_method():
    for i, mesh in enumerate(MESHES):
      often = name == FAST[0] or name in FAST and i == 3
      yield pytest.param(name, mesh, id="-".join([name, "x".join(str(v) for v in mesh.values())]),
                         marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize("name,mesh", list(meshed()))
def test_any_mesh_gives_the_curve_of_one_device(name, mesh):
  exp = experiment.build(runs.config(name, mesh=mesh, replicated_tolerance=1.0))
  losses, state = curve(exp, on_mesh=True)
  np.testing.assert_allclose(losses, reference(name)[:STEPS], rtol=5e-4)
  if mesh["fsdp"] > 1:      # and the mesh really was used
    split = [x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated]
    assert split and all(x.addressable_shards[0].data.size < x.size for x in split)


def test_gradient_equals_pmap():
  """Data-parallel pmap with averaged gradients is an independent implementation of a step whose loss is a
  mean over examples."""
  enc = vit.encoder(width=16, depth=2, heads=2, patch=4)
  rng = np.random.default_rng(0)
  batch = {"image": rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
           "goal": rng.normal(size=(16, 16)).astype(np.float32)}

  def loss(params, extra, batch, key):
    pooled = enc.apply(params, batch["image"]).mean(1)
    return prediction.smooth_l1(pooled, batch["goal"], jnp.ones(pooled.shape[0], bool)), (extra, {})

  method = Method(lambda key, b: (enc.init(key, b["image"]), {}), loss, lambda p, e, s: e,
                  lambda p, e, b: Features(None, None))
  tx, _ = optim.make(name="sgd", lr=dict(value=1.0), momentum=0.0, steps=2)
  mesh = sharding.make_mesh(data=2, fsdp=4, tensor=1)
  state = states.init(jax.random.key(0), batch, method=method, tx=tx)
  on_state, on_batch = sharding.of_state(jax.eval_shape(lambda: state), mesh), sharding.of_batch(mesh)
  step = jax.jit(functools.partial(states.train_step, method=method, tx=tx),
                 in_shardings=(on_state, on_batch), out_shardings=(on_state, None))
  after, _ = step(jax.device_put(state, on_state), jax.device_put(batch, on_batch))
  # With lr 1 the step is the gradient.
  ours = jax.tree.map(lambda new, old: np.asarray(old) - np.asarray(new), after.params, state.params)

  split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
  grads = jax.pmap(
      lambda b: jax.lax.pmean(jax.grad(lambda p: loss(p, {}, b, None)[0])(state.params), "devices"),
      axis_name="devices")(split)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=2e-3, atol=1e-6),
               ours, jax.device_get(grads))


def test_accumulated_gradient_is_the_batch_gradient():
  """For a loss without batch statistics or randomness, micro-batches add up to the batch."""
  def loss(params, extra, batch, key):
    return (jnp.mean((batch["image"].astype(jnp.float32) @ params["kernel"]) ** 2),
            (extra, {"one": jnp.float32(1)}))
  method = Method(None, loss, lambda p, e, s: e, None)
  tx, _ = optim.make(name="sgd", lr=dict(value=0.1), steps=2)
  params = {"kernel": jnp.arange(6.0).reshape(3, 2)}
  batch = {"image": np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)}
  state = states.TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
  whole, parts = (states.train_step(state, batch, method=method, tx=tx, accumulate=n) for n in (1, 4))
  np.testing.assert_allclose(whole[0].params["kernel"], parts[0].params["kernel"], rtol=1e-5)
  np.testing.assert_allclose(whole[1]["loss"], parts[1]["loss"], rtol=1e-5)
  assert float(parts[1]["one"]) == 1.0


def test_two_processes_give_the_curve_of_one(tmp_path):
  """jax.distributed on the CPU: two processes of two devices each train as one device does."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  flags = re.sub(r"(device_count)=\d+", r"\1=2", os.environ["XLA_FLAGS"])
  env = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | {"XLA_FLAGS": flags}
  command = [sys.executable, "-m", "jepa.main", f"--config={runs.ROOT}/configs/ijepa.py:tiny",
             f"--workdir={tmp_path}", "--config.mesh.fsdp=2", "--config.replicated_tolerance=1.0",
             "--config.log.tensorboard=False", "--config.eval.report=True",
             f"--coordinator=localhost:{port}", "--num_processes=2"]
  two = [subprocess.Popen([*command, f"--process_id={i}"], env=env, cwd=runs.ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) for i in range(2)]
  outputs = [p.communicate(timeout=240)[0] for p in two]
  assert [p.returncode for p in two] == [0, 0], outputs
  losses = [r["loss"] for r in logs.history(tmp_path) if "loss" in r]
  np.testing.assert_allclose(losses, reference("ijepa")[:, 0], rtol=5e-4)
  # The first process speaks for all.
  assert re.search(r"step 4/4", outputs[0]) and "step 4/4" not in outputs[1]
  report = f"report: {tmp_path / 'report.html'}"
  assert report in outputs[0] and report not in outputs[1]
  assert "Feature maps" in (tmp_path / "report.html").read_text()
