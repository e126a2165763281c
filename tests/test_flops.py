"""Counted operations against closed forms and XLA's own count."""
import types

import jax
import jax.numpy as jnp
import pytest

from jepa import logs
from jepa.models import vit


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_matrix_products():
  assert logs.operations(lambda a, b: a @ b, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
  assert (logs.operations(lambda a, b: jnp.einsum("bnhd,bmhd->bhnm", a, b), array(2, 3, 4, 5), array(2, 6, 4, 5))
          == 2 * 2 * 4 * 3 * 6 * 5)
  assert logs.operations(lambda a: jnp.tanh(a) + 1, array(3, 4)) == 0


def convolution(stride, groups, padding="SAME"):
  return lambda x, k: jax.lax.conv_general_dilated(x, k, (stride,) * 2, padding, feature_group_count=groups,
                                                   dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("stride,groups", [(1, 1), (2, 1), (1, 2), (1, 8), (2, 4)])
def test_convolutions_and_their_gradients(stride, groups):
  """The gradients by the input and by the kernel cost what the convolution does, strided
  and grouped ones too."""
  x, k = array(2, 12, 12, 8), array(3, 3, 8 // groups, 16)
  conv = convolution(stride, groups)
  forward = 2 * 2 * (12 // stride) ** 2 * 16 * 9 * 8 // groups
  assert logs.operations(conv, x, k) == forward
  gradient = jax.grad(lambda x, k: conv(x, k).sum(), argnums=(0, 1))
  assert logs.operations(gradient, x, k) in (2 * forward, 3 * forward)      # a linear loss drops the forward pass
  square = jax.grad(lambda x, k: (conv(x, k) ** 2).sum(), argnums=(0, 1))
  assert logs.operations(square, x, k) == 3 * forward


def layer(w, h):
  return jnp.tanh(h @ w)


def test_loops_count_their_length():
  w, h = array(7, 4, 4), array(3, 4)
  tower = lambda w, h: jax.lax.scan(lambda h, w: (layer(w, h), None), h, w)[0]
  assert logs.operations(tower, w, h) == 7 * 2 * 3 * 4 * 4
  assert logs.operations(jax.jit(tower), w, h) == 7 * 2 * 3 * 4 * 4
  loss = lambda w, h: tower(w, h).sum()
  assert logs.operations(jax.grad(loss, argnums=(0, 1)), w, h) == 3 * 7 * 2 * 3 * 4 * 4
  nested = lambda w, h: jax.lax.scan(lambda h, _: (tower(w, h), None), h, None, length=5)[0]
  assert logs.operations(nested, w, h) == 5 * 7 * 2 * 3 * 4 * 4


def test_rematerialised_layers_are_counted_again():
  w, h, one = array(4, 4), array(3, 4), 2 * 3 * 4 * 4
  twice = lambda f: lambda w, h: f(w, f(w, h)).sum()
  plain = logs.operations(jax.grad(twice(layer)), w, h)
  remat = logs.operations(jax.grad(twice(jax.checkpoint(layer))), w, h)
  # the gradient by h of the first layer is not needed
  assert plain == one * (2 + 3) and remat == plain + 2 * one


def test_branches_count_as_the_dearest():
  branch = lambda i, a: jax.lax.switch(i, [lambda a: a, lambda a: a @ a, lambda a: a @ a @ a], a)
  assert logs.operations(branch, jax.ShapeDtypeStruct((), jnp.int32), array(4, 4)) == 2 * 2 * 4**3
  assert logs.operations(jax.vmap(lambda a: a @ a), array(5, 4, 4)) == 5 * 2 * 4**3


def test_count_agrees_with_xla_on_an_unrolled_vit():
  net = vit.encoder(width=64, depth=2, heads=2, patch=4, scan=False)
  image = array(2, 32, 32, 3)
  params = jax.eval_shape(net.init, jax.random.key(0), image)
  loss = lambda p, x: (net.apply(p, x) ** 2).mean()
  analysis = jax.jit(jax.grad(loss)).lower(params, image).compile().cost_analysis()
  assert logs.operations(jax.grad(loss), params, image) == pytest.approx(analysis["flops"], rel=0.1)


def test_a_scanned_vit_costs_what_an_unrolled_one_does():
  image, count = array(2, 32, 32, 3), {}
  for scan in (False, True):
    net = vit.encoder(width=16, depth=3, heads=2, patch=8, scan=scan)
    count[scan] = logs.operations(net.apply, jax.eval_shape(net.init, jax.random.key(0), image), image)
  n, d = 16, 16
  # 2 images: projections, then attention
  block = 2 * 2 * n * (3 * d * d + d * d + 2 * 4 * d * d) + 2 * 2 * 2 * n * n * d
  assert count[True] == count[False] == 3 * block + 2 * 2 * n * 8 * 8 * 3 * d


@pytest.mark.parametrize("kind,value", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12),
                                        ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("cpu", None)])
def test_peaks_by_the_name_of_the_device(kind, value):
  assert logs.peak(types.SimpleNamespace(device_kind=kind)) == value
