"""ResNets (arXiv 1512.03385) with BatchNorm over the global batch, for CIFAR and for ImageNet."""
from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jepa.models.convnet import BatchNorm, stateful
from jepa.types import Features, StatefulNet

# depth: (blocks in each of four stages, whether they have a bottleneck)
DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}
STEMS = ("cifar", "imagenet")


class ResNet(nn.Module):
  """The map after the last stage is the tokens, its mean the pooled feature."""

  blocks: Sequence[int]
  bottleneck: bool
  width: int
  stem: str
  train: bool
  zero_last: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image):
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype,
                             kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))
    norm = functools.partial(BatchNorm, self.train, dtype=self.dtype)
    x = image.astype(self.dtype)
    if self.stem == "cifar":
      x = nn.relu(norm(name="norm")(conv(self.width, (3, 3), padding=1, name="conv")(x)))
    else:
      x = nn.relu(norm(name="norm")(conv(self.width, (7, 7), (2, 2), padding=3, name="conv")(x)))
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, count in enumerate(self.blocks):
      for i in range(count):
        stride = 2 if stage and not i else 1
        x = self._block(conv, norm, x, self.width * 2**stage, stride, f"stage{stage}_block{i}")
    tokens = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
    return Features(tokens.mean(1), tokens)

  def _block(self, conv, norm, x, width, stride, name):
    """The residual branch, and the shortcut, a product where the shape changes. In a bottleneck the 3 x 3
    carries the stride (torchvision's, "v1.5")."""
    plan = ([(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)] if self.bottleneck
            else [(width, 3, stride), (width, 3, 1)])
    y = x
    for j, (features, side, step) in enumerate(plan):
      last = j == len(plan) - 1
      y = conv(features, (side, side), (step, step), padding=side // 2, name=f"{name}_conv{j}")(y)
      scale = nn.initializers.zeros if last and self.zero_last else nn.initializers.ones
      y = norm(name=f"{name}_norm{j}", scale_init=scale)(y)
      y = y if last else nn.relu(y)
    if x.shape != y.shape:
      x = conv(y.shape[-1], (1, 1), (stride, stride), name=f"{name}_conv_shortcut")(x)
      x = norm(name=f"{name}_norm_shortcut")(x)
    return nn.relu(x + y)


def resnet(*, depth: int = 18, stem: str = "imagenet", width: int = 64, zero_last: bool = False,
           dtype: str = "float32") -> StatefulNet:
  """apply(params, stats, image [B H W C], train) -> (Features, stats).

  Args:
    depth: 18, 34 or 50. stem: "imagenet" (7 x 7 of stride 2, max-pool) or "cifar" (3 x 3, no pool).
    width: channels of the first stage. zero_last: the last BatchNorm of a branch starts at 0.
    dtype: of the compute; parameters and statistics are f32.
  """
  if depth not in DEPTHS:
    raise ValueError(f"ResNet depth {depth} is unknown; choose one of {', '.join(map(str, DEPTHS))}")
  if stem not in STEMS:
    raise ValueError(f"ResNet stem {stem!r} is unknown; choose one of {', '.join(STEMS)}")
  blocks, bottleneck = DEPTHS[depth]
  return stateful(lambda train: ResNet(blocks, bottleneck, width, stem, train, zero_last, jnp.dtype(dtype)))
