"""Where arrays live: rules by path, meshes, and what happens to arrays that fit none."""
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import pytest

from jepa import optim, sharding
from jepa.models import convnet, heads, vit
from jepa.optim import path_of
from jepa.types import TrainState


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def state():
  """An abstract state as a method has it: parameters, an EMA copy, running statistics, Adam's moments,
  a key."""
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  def make(image):
    encoder = vit.encoder(width=16, depth=2, heads=4, patch=4,
                          position="learned").init(jax.random.key(0), image)
    predictor = vit.predictor(inputs=16, width=8, depth=2, heads=2).init(jax.random.key(1))
    conv, stats = convnet.convnet(widths=(8, 16), strides=(1, 2)).init(jax.random.key(2), image)
    head, head_stats = heads.mlp(widths=(8, 4)).init(jax.random.key(3), jnp.zeros((2, 16)))
    params = {"encoder": encoder, "predictor": predictor, "conv": conv, "head": head}
    return {"params": params, "extra": {"target": encoder, "stats": {"conv": stats, "head": head_stats}},
            "opt": optim.make(lr=dict(value=0.1), steps=10)[0].init(params), "key": jax.random.key(4),
            "step": jnp.int32(0)}
  return jax.eval_shape(make, image)


@pytest.mark.parametrize("path,shape,spec", [
    ("params/encoder/blocks/attention/qkv/kernel", (2, 16, 3, 16), P(None, "fsdp", None, "tensor")),
    ("params/encoder/blocks/attention/qkv/bias", (2, 3, 16), P(None, None, "tensor")),
    ("params/encoder/blocks/attention/out/kernel", (2, 16, 16), P(None, "tensor", "fsdp")),
    ("params/encoder/blocks/up/kernel", (2, 16, 64), P(None, "fsdp", "tensor")),
    ("params/encoder/blocks/up/kernel", (16, 64), P("fsdp", "tensor")),
    ("params/encoder/blocks/up/bias", (2, 64), P(None, "tensor")),
    ("params/encoder/blocks/down/kernel", (2, 64, 16), P(None, "tensor", "fsdp")),
    ("params/encoder/blocks/down/bias", (2, 16), P(None, "fsdp")),
    ("params/encoder/patch/kernel", (48, 16), P(None, "fsdp")),
    ("params/encoder/positions", (4, 16), P(None, "fsdp")),
    ("params/predictor/mask/token", (8,), P("fsdp")),
    ("params/conv0/kernel", (3, 3, 3, 8), P(None, None, None, "fsdp")),
    ("extra/stats/norm0/mean", (8,), P("fsdp")),
    ("opt/0/count", (), P()),
    ("anything/of/one/element", (1, 1), P())])
def test_rules(mesh, path, shape, spec):
  got = sharding.spec_of(path, shape, mesh)
  assert tuple(got) + (None,) * (len(shape) - len(got)) == tuple(spec) + (None,) * (len(shape) - len(spec))


def test_an_axis_that_does_not_divide_is_left_whole(mesh):
  assert sharding.spec_of("up/kernel", (15, 64), mesh) == P(None, "tensor")
  assert sharding.spec_of("up/kernel", (16, 63), mesh) == P("fsdp", None)
  assert sharding.spec_of("scale", (7,), mesh) == P(None)


def test_a_name_without_a_rule_is_split_by_its_sizes_and_told(mesh):
  """The largest dimension that fsdp divides; a new array needs no line anywhere."""
  for shape, spec in [((4, 8), P(None, "fsdp")), ((8, 4), P("fsdp", None)), ((8, 8), P("fsdp", None)),
                      ((4, 9), P("fsdp", None)), ((3, 9), P(None, None)), ((1, 1), P())]:
    assert sharding.spec_of("extra/ledger/rows", shape, mesh) == spec
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  state = TrainState(array(), {"out": {"kernel": array(4, 8)}}, {"ledger": array(4, 8), "odd": array(3, 9)}, {},
                     jax.eval_shape(lambda: jax.random.key(0)))
  text = sharding.describe(state, sharding.of_state(state, mesh), mesh, 1.0)
  assert "split by their sizes: 2\n" in text and "trained parameters: 32\n" in text
  told = [line.split()[0] for line in text.splitlines() if line.endswith("no rule")]
  assert told == ["extra/ledger", "extra/odd"]


def test_meshes():
  assert dict(sharding.make_mesh().shape) == dict(data=8, fsdp=1, tensor=1)
  assert dict(sharding.make_mesh(data=2, fsdp=-1).shape) == dict(data=2, fsdp=4, tensor=1)
  assert dict(sharding.make_mesh(data=2, fsdp=2, tensor=2).shape) == dict(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize("sizes,told", [
    (dict(data=3), "needs 3 devices and there are 8; set one axis to -1, or on a CPU set XLA_FLAGS"),
    (dict(data=-1, fsdp=3), "needs 6 devices and there are 8"),
    (dict(data=-1, fsdp=16), "needs 16 devices and there are 8"),
    (dict(data=-1, fsdp=-1), "one of them may be -1"),
    (dict(data=0), "sizes are positive"), (dict(data=-2), "sizes are positive")])
def test_wrong_meshes_are_told(sizes, told):
  with pytest.raises(ValueError, match=told):
    sharding.make_mesh(**sizes)


def specs(tree):
  """path -> spec of every leaf."""
  return {path_of(p): s.spec for p, s in jax.tree_util.tree_leaves_with_path(tree)}


def test_copies_and_moments_live_with_their_weight(mesh, state):
  by_path = specs(sharding.of_state(state, mesh))
  params = {p.removeprefix("params/"): s for p, s in by_path.items() if p.startswith("params/")}
  for name, spec in params.items():
    same = [p for p in by_path if p.endswith("/" + name)]
    copies = 4 if name.startswith("encoder/") else 3
    if name.startswith("encoder/"):
      same.append("extra/target/" + name.removeprefix("encoder/"))
    assert len(same) == copies, f"{name}: {same}"                      # params, mu, nu (and the target)
    assert {by_path[p] for p in same} == {spec}, name
  assert sum(any(a for a in s)
             for s in params.values()) > 0.8 * len(params), "the mesh splits next to nothing"
  assert by_path["key"] == by_path["step"] == P()


def test_shardings_place_real_arrays(mesh, state):
  small = state["params"]["encoder"]["blocks"]["up"]
  placed = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), small),
                   out_shardings=sharding.of_state({"up": small}, mesh)["up"])()
  assert placed["kernel"].addressable_shards[0].data.shape == (2, 16 // 2, 64 // 2)
  batch = jax.device_put(jnp.arange(8), sharding.of_batch(mesh))
  assert batch.addressable_shards[0].data.shape == (2,)                # data x fsdp, not tensor
  assert jax.device_put(jnp.arange(8), sharding.replicated(mesh)).is_fully_replicated


def test_table_counts_bytes(mesh, state):
  rows = sharding.rows(state, sharding.of_state(state, mesh))
  leaves = [x for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
  assert (len(rows) == len(leaves)
          and sum(r.bytes for r in rows) == sum(x.size * x.dtype.itemsize for x in leaves))
  row = next(r for r in rows if r.path == "params/encoder/blocks/up/kernel")
  assert row.shape == (2, 16, 64) and row.bytes == 4 * row.bytes_per_device == 4 * 2 * 16 * 64
  text = sharding.table(rows).splitlines()
  assert len(text) == len(rows) + 2 and "params/encoder/blocks/up/kernel" in "".join(text)
  assert (f"{sum(r.bytes for r in rows):,}" in text[-1]
          and f"{sum(r.bytes_per_device for r in rows):,}" in text[-1])


def test_check_names_what_is_replicated():
  mesh = sharding.make_mesh(data=1, fsdp=8)
  abstract = {"good": {"kernel": jax.ShapeDtypeStruct((8, 64), jnp.float32)},
              "odd": {"kernel": jax.ShapeDtypeStruct((8, 9), jnp.float32)}}
  rows = sharding.rows(abstract, sharding.of_state(abstract, mesh))
  share = 72 / (72 + 512)
  assert sharding.check(rows, mesh, 0.2) == pytest.approx(share)
  with pytest.raises(
      ValueError,
      match=r"12\.3% of the state is replicated.*fsdp=8 \(tolerance 2\.0%\).*odd/kernel \(8, 9\)") as told:
    sharding.check(rows, mesh, 0.02)
  assert "good/kernel" not in str(told.value) and "divisible by fsdp" in str(told.value)
  whole = sharding.make_mesh()      # without fsdp, replication is the plan
  everything = jax.tree.map(lambda x: NamedSharding(whole, P()), abstract)
  assert sharding.check(sharding.rows(abstract, everything), whole, 0.02) == 1
