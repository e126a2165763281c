"""ResNets against published sizes, against torchvision where it is, and over a mesh."""
import functools
import importlib.util

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jepa import logs, peers, sharding
from jepa.models import resnet
from jepa.models.convnet import stateful
from tests.test_models import close, shaken

KEY = jax.random.key(0)


def images(n=2, side=16, seed=0):
  return np.random.default_rng(seed).normal(size=(n, side, side, 3)).astype(np.float32)


def abstract(side, **args):
  """(net, shapes of (params, stats), shape of an image)."""
  net, image = resnet.resnet(**args), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return net, jax.eval_shape(net.init, KEY, image), image


def small(blocks=(1, 1), bottleneck=True, width=4, stem="cifar", zero_last=False):
  """(net, params, stats) with few blocks, which compiles in a second."""
  net = stateful(lambda train: resnet.ResNet(blocks, bottleneck, width, stem, train, zero_last))
  return net, *jax.jit(net.init)(KEY, images())


def compiled(net):
  """(in training, in evaluation)."""
  return tuple(jax.jit(functools.partial(net.apply, train=train)) for train in (True, False))


# Sizes.


@pytest.mark.parametrize("depth,stem,count", [
    (18, "imagenet", 11_176_512), (18, "cifar", 11_168_832), (34, "imagenet", 21_284_672),
    (50, "imagenet", 23_508_032), (50, "cifar", 23_500_352)])
def test_parameters_are_the_published_ones_less_the_classifier(depth, stem, count):
  _, (params, stats), _ = abstract(32, depth=depth, stem=stem)
  assert sum(p.size for p in jax.tree.leaves(params)) == count
  means, variances = ([s for p, s in jax.tree_util.tree_leaves_with_path(stats) if name in str(p[-1])]
                      for name in ("mean", "var"))
  assert len(means) == len(variances) == sum("norm" in name for name in params)
  assert not any("bias" in p for name, p in params.items() if "conv" in name)


@pytest.mark.parametrize("depth,stem,side,published", [
    (18, "imagenet", 224, 1.814e9), (34, "imagenet", 224, 3.664e9), (50, "imagenet", 224, 4.089e9),
    (18, "cifar", 32, 0.5558e9)])
def test_multiplications_are_the_published_ones(depth, stem, side, published):
  """With the stride in the first product of a bottleneck a ResNet-50 has 3.86e9."""
  net, variables, image = abstract(side, depth=depth, stem=stem)
  assert logs.operations(functools.partial(net.apply, train=False), *variables,
                     image) / 2 == pytest.approx(published, rel=1.5e-3)


@pytest.mark.parametrize("depth,stem,side,tokens,width", [
    (18, "cifar", 32, 16, 512), (18, "imagenet", 224, 49, 512), (34, "imagenet", 96, 9, 512),
    (50, "cifar", 32, 16, 2048), (50, "imagenet", 224, 49, 2048)])
def test_features(depth, stem, side, tokens, width):
  net, variables, image = abstract(side, depth=depth, stem=stem, dtype="bfloat16")
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  for train in (True, False):
    features, stats = jax.eval_shape(functools.partial(net.apply, train=train), *variables, image)
    assert features.pooled.shape == (1, width) and features.tokens.shape == (1, tokens, width)
    assert {v.dtype for v in jax.tree.leaves((features, stats))} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, stats) == jax.tree.map(jnp.shape, variables[1])


@pytest.mark.parametrize("args,told", [
    (dict(depth=20), "depth 20 is unknown; choose one of 18, 34, 50"),
    (dict(stem="mnist"), "stem 'mnist' is unknown; choose one of cifar, imagenet")])
def test_wrong_sizes_say_what_to_do(args, told):
  with pytest.raises(ValueError, match=told):
    resnet.resnet(**args)


# What they compute.


def windows(x, side, stride, pad, fill=0.0):
  """[B h w C side side]"""
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
  return np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))[:, ::stride, ::stride]


def by_hand(params, x, bottleneck, stem):
  """The map after two stages of a block each, in training."""
  def product(x, name, stride):
    kernel, p = params[name]["kernel"], params[name.replace("conv", "norm")]
    h = np.einsum("bhwcij,ijcd->bhwd", windows(x, len(kernel), stride, len(kernel) // 2), kernel)
    return (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]
  relu = lambda x: np.maximum(x, 0)
  x = relu(product(x, "conv", 1 if stem == "cifar" else 2))
  x = x if stem == "cifar" else windows(x, 3, 2, 1, -np.inf).max((-1, -2))
  for stage in range(2):
    name, y = f"stage{stage}_block0_conv", x
    for j in range(2 + bottleneck):
      y = product(y, f"{name}{j}", 2 if stage and j == bottleneck else 1)
      y = y if j == 1 + bottleneck else relu(y)
    x = relu(y + (product(x, f"{name}_shortcut", 1 + stage) if f"{name}_shortcut" in params else x))
  return x


@pytest.mark.parametrize("bottleneck,stem", [(False, "imagenet"), (True, "cifar")])
def test_blocks_are_those_of_a_loop(bottleneck, stem):
  net, params, stats = small(bottleneck=bottleneck, stem=stem)
  params, x = jax.device_get(shaken(params)), images(4, 16)
  tokens = by_hand(params, x, bottleneck, stem).reshape(4, -1, 32 if bottleneck else 8)
  assert tokens.shape[1] == (4 if stem == "imagenet" else 64)
  out = compiled(net)[0](params, stats, x)[0]
  close(out.tokens, tokens, rtol=1e-3, atol=1e-3)
  close(out.pooled, tokens.mean(1), rtol=1e-3, atol=1e-3)


def test_bfloat16_is_of_the_compute_only():
  net, variables, image = abstract(32, depth=18, stem="cifar", width=8, dtype="bfloat16")
  products = [line for line in str(jax.make_jaxpr(functools.partial(net.apply, train=True))(
      *variables, image)).splitlines() if "conv_general_dilated[" in line]
  assert len(products) == 20 and all("bf16[" in line for line in products)
  net, params, stats = small()
  rough = stateful(lambda train: resnet.ResNet((1, 1), True, 4, "cifar", train, dtype=jnp.bfloat16))
  (exact, new), (out, own) = (compiled(n)[0](params, stats, images(8)) for n in (net, rough))
  assert 1e-4 < np.abs(out.pooled - exact.pooled).max() < 0.1 * np.abs(exact.pooled).max()
  jax.tree.map(functools.partial(close, rtol=0.1, atol=0.02), own, new)


def test_running_statistics_move_in_training_and_serve_in_evaluation():
  net, params, stats = small(bottleneck=False)
  params, (train, test), x = shaken(params), compiled(net), images(8)
  jax.tree_util.tree_map_with_path(
      lambda p, s: np.testing.assert_array_equal(s, float("var" in str(p[-1]))), stats)
  first, moved = train(params, stats, x)
  # each from its start towards the batch's, by a tenth; the batch's do not depend on it
  again, further = train(params, moved, x)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  jax.tree.map(lambda a, b, c: close(c - b, 0.9 * (b - a), atol=1e-4), stats, moved, further)
  assert all(np.abs(m - s).max() > 1e-3 for m, s in zip(jax.tree.leaves(moved), jax.tree.leaves(stats)))
  # evaluation: no image sees another, the statistics matter and stay
  out, same = test(params, moved, x)
  jax.tree.map(np.testing.assert_array_equal, same, moved)
  jax.tree.map(np.testing.assert_array_equal, out, test(params, moved, x)[0])
  close(test(params, moved, x[:2])[0].pooled, out.pooled[:2])
  assert np.abs(test(params, stats, x)[0].pooled - out.pooled).max() > 1e-2
  assert np.abs(train(params, stats, x[:2])[0].pooled - first.pooled[:2]).max() > 1e-2
  for _ in range(100):
    _, moved = train(params, moved, x)
  close(test(params, moved, x)[0].pooled, first.pooled, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_last_makes_every_branch_nothing(bottleneck):
  def scramble(params):      # what a branch holds before its last BatchNorm
    return {k: jax.tree.map(lambda p: -2 * p[..., ::-1], v)
            if "block" in k and "shortcut" not in k and f"norm{1 + bottleneck}" not in k else v
            for k, v in params.items()}
  for zero_last in (True, False):
    net, params, stats = small((2, 1), bottleneck, zero_last=zero_last)
    train, _ = compiled(net)
    last = {k: float(p["scale"].sum()) for k, p in params.items() if f"norm{1 + bottleneck}" in k}
    assert len(last) == 3 and all((v == 0) == zero_last for v in last.values())
    assert all((p["scale"] == 1).all() for k, p in params.items() if "norm" in k and k not in last)
    difference = np.abs(train(params, stats, images())[0].tokens
                        - train(scramble(params), stats, images())[0].tokens).max()
    assert difference == 0 if zero_last else difference > 1e-2


def test_blocks_of_one_shape_start_as_the_identity():
  net, params, stats = small((3,), False, zero_last=True)
  stem, *_ = small((), False)
  np.testing.assert_array_equal(compiled(net)[0](params, stats, images())[0].tokens,
                                compiled(stem)[0](params, stats, images())[0].tokens)


def test_batch_norm_is_over_the_global_batch():
  """Output, gradient and running statistics of eight devices are those of one."""
  net, params, stats = small((1, 1), True, stem="imagenet")
  params, x = shaken(params), images(16, seed=1) + np.arange(16)[:, None, None, None] / 4
  weight = np.random.default_rng(2).normal(size=(16, 32)).astype(np.float32)

  def loss(params, x):
    features, new = net.apply(params, stats, x, train=True)
    return (jnp.sin(features.pooled) * weight).sum(), (features.tokens, new)

  step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  one = jax.jit(step)(params, x)
  mesh = sharding.make_mesh(data=8)
  split = sharding.of_batch(mesh)
  eight = jax.jit(step, in_shardings=(sharding.replicated(mesh), split))(params, jax.device_put(x, split))
  assert eight[0][1][0].sharding.spec[0] in ("data", ("data", "fsdp")), "the batch was not split"
  jax.tree.map(functools.partial(close, rtol=2e-3, atol=2e-4), eight, one)
  own = jax.shard_map(lambda x: net.apply(params, stats, x, train=True)[0].pooled, mesh=mesh,
                      in_specs=P("data"), out_specs=P("data"))
  whole, parts = (jax.jit(f)(x) for f in (lambda x: net.apply(params, stats, x, train=True)[0].pooled, own))
  assert np.abs(whole - parts).max() > 0.1, "the statistics of a part would do"


# Torchvision's.


@pytest.fixture(scope="module")
def torchvision():
  """The module."""
  pytest.importorskip("torch")
  if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed")
  with peers.importing_torchvision():
    import torchvision
    import torchvision.models
  return torchvision


def names_of(model) -> dict[str, str]:
  """Our name of each convolution and BatchNorm of a torchvision ResNet."""
  names = {"conv1": "conv", "bn1": "norm"}
  for s in range(4):
    for i, block in enumerate(getattr(model, f"layer{s + 1}")):
      ours, theirs = f"stage{s}_block{i}", f"layer{s + 1}.{i}"
      for j in range(3 if hasattr(block, "conv3") else 2):
        names |= {f"{theirs}.conv{j + 1}": f"{ours}_conv{j}", f"{theirs}.bn{j + 1}": f"{ours}_norm{j}"}
      if block.downsample is not None:
        names |= {f"{theirs}.downsample.0": f"{ours}_conv_shortcut",
                  f"{theirs}.downsample.1": f"{ours}_norm_shortcut"}
  return names


def variables_of(model) -> tuple[dict, dict]:
  """(params, stats) of a torchvision ResNet."""
  params, stats = {}, {}
  state = {k: np.array(v.numpy()) for k, v in model.state_dict().items()}
  for theirs, ours in names_of(model).items():
    if "conv" in ours:
      params[ours] = {"kernel": state[f"{theirs}.weight"].transpose(2, 3, 1, 0)}
    else:
      params[ours] = {"scale": state[f"{theirs}.weight"], "bias": state[f"{theirs}.bias"]}
      stats[ours] = {"mean": state[f"{theirs}.running_mean"], "var": state[f"{theirs}.running_var"]}
  return params, stats


@pytest.mark.parametrize("depth", [18, 50])
def test_features_and_statistics_are_torchvisions(torchvision, depth):
  import torch
  torch.manual_seed(0)
  model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
  model.fc = torch.nn.Identity()
  sizes, maps = {}, []
  with torch.no_grad():
    for name, module in model.named_modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        for t, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
                             (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0)):
          t.uniform_(low, high)
        module.register_forward_hook(
            lambda m, x, y, name=name: sizes.update({name: x[0].numel() // x[0].shape[1]}))
    model.layer4.register_forward_hook(lambda m, x, y: maps.append(y))
    net = resnet.resnet(depth=depth)
    variables = variables_of(model)
    x = images(4, 96)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(net.init, KEY, x))
    assert shapes == jax.tree.map(jnp.shape, variables)
    for train, tolerance in ((False, 1e-4), (True, 1e-3)):
      model.train(train)
      pooled = model(torch.from_numpy(x).permute(0, 3, 1, 2))
      (ours, tokens), stats = jax.jit(functools.partial(net.apply, train=train))(*variables, x)
      scale = float(pooled.abs().max())
      close(ours, pooled.numpy(), rtol=0, atol=tolerance * scale)
      grid = maps.pop().permute(0, 2, 3, 1).reshape(4, 9, -1).numpy()
      close(tokens, grid, rtol=0, atol=tolerance * np.abs(grid).max())
  # Running variances: theirs takes the unbiased variance of a batch, ours the one that normalises it.
  _, after = variables_of(model)
  for theirs, n in sizes.items():
    name = names_of(model)[theirs]
    close(stats[name]["mean"], after[name]["mean"], rtol=1e-3, atol=1e-3)
    before = 0.9 * variables[1][name]["var"]
    close(stats[name]["var"] - before, (after[name]["var"] - before) * (n - 1) / n, rtol=1e-2, atol=1e-3)
