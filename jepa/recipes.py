"""What the configs of methods share, so that methods differ in nothing else: data, backbone, views, optimizer
at four scales.

  cifar10   CIFAR-10: ResNet-18 with the CIFAR stem, or a ViT of patch 4; one GPU
  paper     ImageNet-1k at 224 pixels, as published
  small     4,000 MNIST digits: a ViT 64 x 3 of patch 7; two CPU cores, minutes
  tiny      synthetic images, seconds; what the contract tests run

A config's argument is a scale and flags: "small", "paper", "small,none". Default: cifar10.
"""
from collections.abc import Mapping, Sequence
import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jepa import config

SCALES = ("cifar10", "paper", "small", "tiny")
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10 = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
DIGITS = tuple("zero one two three four five six seven eight nine".split())
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def start(arg: str | None, *, flags: Sequence[str] = ("none",)) -> tuple[ConfigDict, str, set[str]]:
  """(config with data and length of a scale, scale, flags) of a config's argument.

  Raises:
    ValueError: neither a scale nor a flag; lists both.
  """
  words = [w for w in (arg or "").split(",") if w]
  unknown = [w for w in words if w not in (*SCALES, *flags)]
  scales = [w for w in words if w in SCALES] or ["cifar10"]
  if unknown or len(scales) > 1:
    raise ValueError(f"argument {arg!r}: write one scale of {', '.join(SCALES)}"
                     + (f" and flags of {', '.join(flags)}" if flags else "") + ", as in small"
                     + (f",{flags[0]}" if flags else ""))
  scale = scales[0]
  c = config.base()
  if scale == "cifar10":
    c.total, c.batch = "300 epochs", 256
    c.data = dict(source="tfds", args=dict(name="cifar10", data_dir=""), train="train", test="test",
                  workers=0, prefetch=2)
    c.eval.every, c.eval.train_limit, c.log.every = "10 %", 5000, "50 steps"
    c.eval.args = dict(linear=dict(limit=200))
  elif scale == "paper":
    c.data = dict(source="tfds", args=dict(name="imagenet2012", data_dir="", size=256), train="train",
                  test="validation", workers=16, prefetch=4)
    c.checkpoint = dict(every="1 epoch", keep=2, milestones="50 epochs")
    c.eval.every, c.eval.batch, c.log.every = "10 epochs", 2048, "50 steps"
  else:
    c.total, c.batch = "4000 steps", 64
    c.data = dict(source="mnist5k", args={}, train="train", test="test", workers=0, prefetch=2)
    c.checkpoint.every, c.log.every = "50 %", "50 steps"
    c.optim = adamw(4e-3)
  return c, scale, {w for w in words if w in flags}


def of_file(configs: str, name: str, arg: str) -> ConfigDict:
  """The config of another file in the folder of the file `configs` (a study's __file__)."""
  path = Path(configs).parent / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def finish(c: ConfigDict, scale: str) -> ConfigDict:
  """The config, or its tiny form."""
  return config.tiny(c) if scale == "tiny" else c


def pick(scale: str, **values: Any) -> Any:
  """The value of a scale; tiny takes small's where it has none of its own."""
  return values["small"] if scale == "tiny" and "tiny" not in values else values[scale]


def pixels(scale: str) -> dict:
  """mean and std of pixels."""
  return pick(scale, cifar10=CIFAR10, paper=IMAGENET, small=dict(mean=0.13, std=0.31), tiny={})


def backbone(scale: str, **paper: Any) -> dict:
  """The encoder of methods that take any: ResNets, and at the small scale the ViT that all share.
  `paper`: fields of the published one, ResNet-50 by default."""
  return pick(scale, cifar10=dict(name="resnet", depth=18, stem="cifar", dtype="bfloat16"),
              paper=paper or dict(name="resnet", depth=50, dtype="bfloat16"),
              small=dict(name="vit", **vit("small")),
              tiny=dict(name="convnet", widths=(8, 16), strides=(2, 2)))


def vit(scale: str, **paper: Any) -> dict:
  """The encoder of methods that act on patches. `paper`: fields of the published one."""
  return pick(scale, cifar10=dict(width=192, depth=12, heads=3, patch=4, dtype="bfloat16"),
              paper=dict(variant="B", patch=16, init_std=0.02, dtype="bfloat16", remat="dots") | paper,
              small=dict(width=64, depth=3, heads=2, patch=7), tiny=dict(width=16, depth=2, heads=2, patch=4))


def decoder(scale: str) -> dict:
  """A narrow ViT decoder (MAE's at the paper's scale)."""
  return pick(scale, cifar10=dict(width=96, depth=4, heads=3, dtype="bfloat16"),
              paper=dict(width=512, depth=8, heads=16, init_std=0.02, dtype="bfloat16", remat="dots"),
              small=dict(width=48, depth=1, heads=2), tiny=dict(width=16, depth=1, heads=2))


def views(scale: str, kind: str, /, *, count: int = 2, **paper: Any) -> dict:
  """A published set of views (views.PUBLISHED) at the paper's scale with the fields `paper`; the same without
  blur on CIFAR-10; at the small scale `count` warps, since digits have no colour and left is not right."""
  return pick(scale, cifar10=dict(kind=kind, size=32, small=True) | _without_locals(kind),
              paper=dict(kind=kind, size=224) | paper, small=warps(count),
              tiny=dict(kind="crops", count=count, size=16, scale=(0.4, 1.0)))


def _without_locals(kind: str) -> dict:
  return dict(local_count=0, local_size=0) if kind in ("dino", "lejepa") else {}


def warps(count: int) -> dict:
  """Affine and elastic views of digits."""
  return dict(kind="affine", count=count, rotate=15.0, scale=(0.86, 1.16), shear=8.5, translate=0.07,
              elastic=0.035, thickness=0.8)


def adamw(peak: float, *, decay: float | Mapping = 0.05, warmup: str = "6 %", **more: Any) -> dict:
  """AdamW with a cosine to a thousandth of the peak."""
  return dict(name="adamw", lr=dict(kind="cosine", value=peak, end=peak / 1000, warmup=warmup),
              weight_decay=decay if isinstance(decay, Mapping) else dict(value=decay), clip=0.0) | more


def lars(peak: float, *, decay: float, trust: float = 0.02, warmup: str = "10 epochs", **more: Any) -> dict:
  """LARS with a cosine to a thousandth of the peak; weight decay and trust ratio on weights only."""
  return dict(name="lars", lr=dict(kind="cosine", value=peak, end=peak / 1000, warmup=warmup),
              weight_decay=dict(value=decay), trust=trust, clip=0.0) | more


def sgd(peak: float, *, decay: float, warmup: str = "10 epochs", **more: Any) -> dict:
  """SGD of momentum 0.9 with a cosine to 0."""
  return dict(name="sgd", lr=dict(kind="cosine", value=peak, end=0.0, warmup=warmup),
              weight_decay=dict(value=decay), clip=0.0) | more
