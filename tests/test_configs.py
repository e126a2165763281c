"""Every config builds; the published ones have the published sizes and shardings, abstractly."""
import subprocess
import sys

import jax
import numpy as np
import pytest

from jepa import experiment, optim, sharding, state as states
from jepa.methods import ijepa
from jepa.models import vit
from tests import runs

# encoder, fixed positions
MILLIONS = {"S/16": 21.6, "B/16": 85.6, "L/16": 303.1, "H/14": 630.4, "H/16@448": 630.7, "g/16": 1011.1}


@pytest.mark.parametrize("name", runs.CONFIGS)
def test_config_builds_and_names_its_command(name):
  c = runs.config(name)
  exp = experiment.build(c)
  assert exp.total >= 1 and len(exp.schedules) == 2
  assert f"--config=configs/{name}.py" in (runs.ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]


def published(arch):
  """(abstract state, method) of the published run, without data or arrays."""
  c = runs.config("ijepa_in1k", f"arch={arch}").to_dict()
  method = ijepa.make(**c["args"], steps=1000)
  tx, _ = optim.make(lr=dict(value=1e-3), weight_decay=0.05, steps=1000)
  batch = {"image": jax.ShapeDtypeStruct((2, 224, 224, 3), np.uint8)}
  if arch.endswith("@448"):
    batch = {"image": jax.ShapeDtypeStruct((2, 448, 448, 3), np.uint8)}
  return jax.eval_shape(lambda k, b: states.init(k, b, method=method, tx=tx), jax.random.key(0), batch), c


@pytest.mark.parametrize("arch", MILLIONS)
def test_published_architectures(arch):
  state, c = published(arch)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  encoder = count(state.params["encoder"])
  assert encoder == vit.parameters(arch.split("/")[0], int(arch.split("/")[1].partition("@")[0]))
  assert encoder / 1e6 == pytest.approx(MILLIONS[arch], rel=1e-3)
  assert jax.tree.map(np.shape, state.extra["target"]) == jax.tree.map(np.shape, state.params["encoder"])
  assert c["batch"] == 2048 and c["args"]["ema"] == dict(kind="linear", value=0.996, end=1.0)


def test_published_h14_is_sharded_on_eight_devices():
  state, _ = published("H/14")
  mesh = sharding.make_mesh(data=1, fsdp=8, tensor=1)
  rows = sharding.rows(state, sharding.of_state(state, mesh))
  assert sharding.check(rows, mesh, 0.02) < 0.02
  assert sum(r.bytes_per_device for r in rows) < 1.02 * sum(r.bytes for r in rows) / 8


def test_published_h14_is_sharded_on_256_devices():
  """In a process of its own, which has 256 fake devices."""
  program = """
import sys; sys.path.insert(0, ".")
from tests import test_configs as t
from jepa import sharding
import jax
assert jax.device_count() == 256
state, _ = t.published("H/14")
for shape in (dict(data=32, fsdp=8, tensor=1), dict(data=2, fsdp=128, tensor=1),
              dict(data=8, fsdp=16, tensor=2)):
  mesh = sharding.make_mesh(**shape)
  rows = sharding.rows(state, sharding.of_state(state, mesh))
  share = sharding.check(rows, mesh, 0.02)
  pieces = shape["fsdp"] * shape["tensor"]
  print(shape, share, sum(r.bytes for r in rows) / sum(r.bytes_per_device for r in rows) / pieces)
"""
  import os
  env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=256"}
  done = subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, env=env, capture_output=True,
                        text=True, timeout=200)
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize("arg", ["H14", "arch=Q/14", "arch=H/x"])
def test_a_wrong_architecture_says_what_to_write(arg):
  with pytest.raises(ValueError, match="arch=VARIANT/PATCH"):
    runs.config("ijepa_in1k", arg)
