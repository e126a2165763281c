"""The encoder of IMPALA (Espeholt et al., 2018, arXiv 1802.01561, figure 3, the large one): stages of a
convolution, max-pooling by 2 and two residual blocks. GroupNorm in place of no normalisation, as PLDM
(arXiv 2502.14819) has it, so that an image is encoded alone and no statistics travel.

Shapes: images [B H W C] -> [B D].
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jepa.models import layers as lib, vit
from jepa.types import Net


class Stage(nn.Module):
  """Convolution, 3x3 max-pooling of stride 2, blocks x + conv(relu(conv(relu(x))))."""

  width: int
  blocks: int
  stride: int
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = lambda name, stride=1: nn.Conv(
        self.width, (max(3, stride + 1),) * 2, (stride,) * 2, dtype=self.dtype,
        kernel_init=nn.initializers.he_normal(), name=name)
    norm = lambda name: nn.GroupNorm(self.groups, dtype=self.dtype, name=name)
    if self.stride:
      x = nn.relu(norm("norm0")(conv("conv0", self.stride)(x)))
    else:
      x = nn.max_pool(conv("conv0")(x), (3, 3), (2, 2), "SAME")
    for block in range(1, self.blocks + 1):
      h = conv(f"conv{2 * block - 1}")(nn.relu(norm(f"norm{2 * block - 1}")(x)))
      x = x + conv(f"conv{2 * block}")(nn.relu(norm(f"norm{2 * block}")(h)))
    return x


class Patches(nn.Module):
  """A linear map of each patch, normalised, and relu."""

  width: int
  patch: int
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    h = lib.Dense(self.width, self.dtype, name="patch")(vit.patches(x, self.patch))
    h = h.reshape(len(x), *vit.grid_of(x, self.patch), self.width)
    return nn.relu(nn.GroupNorm(self.groups, dtype=self.dtype, name="norm0")(h))


class Impala(nn.Module):
  """Stages, then one linear map of the last feature map and a LayerNorm."""

  widths: Sequence[int]
  outputs: int
  blocks: int
  strides: Sequence[int]
  patches: bool
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, image):
    x = image.astype(self.dtype)
    for i, (width, stride) in enumerate(zip(self.widths, self.strides)):
      if self.patches and not i:
        x = Patches(width, stride, self.groups, self.dtype, name="stage0")(x)
        continue
      x = Stage(width, self.blocks, stride, self.groups, self.dtype, name=f"stage{i}")(x)
    x = nn.relu(x).reshape(len(x), -1)
    return lib.LayerNorm(jnp.float32, name="norm")(lib.Dense(self.outputs, self.dtype, name="out")(x))


def impala(*, widths: Sequence[int] = (16, 32, 32), outputs: int = 512, blocks: int = 2,
           strides: Sequence[int] = (), patches: bool = False, groups: int = 4,
           dtype: str = "float32") -> Net:
  """apply(params, image [B H W C]) -> f32 [B outputs].

  Args:
    widths: channels of each stage, which halves the side. blocks: residual ones a stage.
    groups: of GroupNorm.
    strides: of each stage's first convolution, in place of the pooling: a quarter of its operations with 2, a
      sixth with 4 and a kernel of 5. Nothing: pooling, as published.
    patches: the first stage is a linear map of patches, which do not overlap, as wide as its stride, without
      residual blocks: a matrix product, where the gradient of a convolution of few channels is what a CPU is
      slowest at.

  Raises:
    ValueError: a width that the groups do not divide, not one stride a stage, patches without strides; when
      called, a picture that the patches do not divide.
  """
  if bad := [w for w in widths if w % groups]:
    raise ValueError(f"impala: a width of {bad[0]} does not split into {groups} groups; choose a multiple")
  if strides and (len(strides) != len(widths) or min(strides) < 1):
    raise ValueError(f"impala: strides = {tuple(strides)} with {len(widths)} widths; "
                     "give a positive one to each stage")
  if patches and not strides:
    raise ValueError("impala: patches are as wide as the first stride; give strides, such as (5, 2, 2)")
  strides = tuple(strides) or (0,) * len(widths)
  return lib.net(Impala(tuple(widths), outputs, blocks, strides, patches, groups, jnp.dtype(dtype)))
