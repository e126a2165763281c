"""What configs share, so that methods differ in nothing else: data, backbone, views, optimizer at four
scales, and the data of world models in Two Rooms.

  cifar10   CIFAR-10: ResNet-18 with the CIFAR stem, or a ViT of patch 4; one GPU
  paper     ImageNet-1k at 224 pixels, as published
  digits    4,000 MNIST digits: a ViT 64 x 3 of patch 7; two CPU cores, minutes
  tiny      synthetic images, seconds; what the contract tests run

A config's argument is a scale and flags: "digits", "paper", "digits,none". Default: cifar10.
"""
from collections.abc import Mapping, Sequence
import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jepa import config

SCALES = ("cifar10", "paper", "digits", "tiny")
OLD_NAMES = {"small": "digits"}      # of scales
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10 = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
TWO_ROOMS = dict(mean=(0.0026, 0.0989), std=(0.0369, 0.2986))
DIGITS = tuple("zero one two three four five six seven eight nine".split())
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def start(arg: str | None, *, flags: Sequence[str] = ("none",)) -> tuple[ConfigDict, str, set[str]]:
  """(config with data and length of a scale, scale, flags) of a config's argument.

  Raises:
    ValueError: neither a scale nor a flag; lists both.
  """
  words = [OLD_NAMES.get(w, w) for w in (arg or "").split(",") if w]
  unknown = [w for w in words if w not in (*SCALES, *flags)]
  scales = [w for w in words if w in SCALES] or ["cifar10"]
  if unknown or len(scales) > 1:
    raise ValueError(f"argument {arg!r}: write one scale of {', '.join(SCALES)}"
                     + (f" and flags of {', '.join(flags)}" if flags else "") + ", as in digits"
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


def choice(arg: str | None, choices: Sequence[str]) -> str:
  """The argument of a study, or of a world model's config: one of `choices`, by default the first.

  Raises:
    ValueError: it is none of them; lists them.
  """
  word = OLD_NAMES.get(arg, arg) or choices[0]
  if word not in choices:
    first, *others, last = choices
    raise ValueError(f"argument {arg!r}: write {', '.join([f'{first} (default)', *others])} or {last}")
  return word


def two_rooms(arg: str | None, *, length: int, n: int) -> tuple[ConfigDict, str]:
  """(config with data and length, argument) of a world model in Two Rooms. The argument is "random" (wall and
  door of every layout drawn; the default), "fixed", or "tiny" (the caller gives the config's tiny form).

  Args:
    length, n: frames of a trajectory, and how many trajectories there are; few and short ones for "tiny".
  """
  arg = choice(arg, ("random", "fixed", "tiny"))
  c = config.base()
  c.total, c.batch = "6000 steps", 64
  sizes = dict(length=4, n=64, test=16) if arg == "tiny" else dict(length=length, n=n)
  c.data = dict(source="world", args=dict(name="two_rooms", args=dict(random=arg != "fixed"), **sizes),
                train="train", test="test", workers=0, prefetch=2)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse",), False, False
  c.log.every = "50 steps"
  return c, arg


def tiny_trajectories(c: ConfigDict, **args: Any) -> ConfigDict:
  """The tiny form of a world model's config: config.tiny with the arguments `args` of the method, over
  trajectories of the config's own source in place of images, and with its own evaluation."""
  tiny = config.tiny(c, **args)
  tiny.data, tiny.eval = c.data, c.eval
  tiny.eval.batch = 16
  return tiny


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
  """The value of a scale; tiny takes that of digits where it has none of its own."""
  return values["digits"] if scale == "tiny" and "tiny" not in values else values[scale]


def pixels(scale: str) -> dict:
  """mean and std of pixels."""
  return pick(scale, cifar10=CIFAR10, paper=IMAGENET, digits=dict(mean=0.13, std=0.31), tiny={})


def backbone(scale: str, **paper: Any) -> dict:
  """The encoder of methods that take any: ResNets, and of digits the ViT that all share.
  `paper`: fields of the published one, ResNet-50 by default."""
  return pick(scale, cifar10=dict(name="resnet", depth=18, stem="cifar", dtype="bfloat16"),
              paper=paper or dict(name="resnet", depth=50, dtype="bfloat16"),
              digits=dict(name="vit", **vit("digits")),
              tiny=dict(name="convnet", widths=(8, 16), strides=(2, 2)))


def vit(scale: str, **paper: Any) -> dict:
  """The encoder of methods that act on patches. `paper`: fields of the published one."""
  return pick(scale, cifar10=dict(width=192, depth=12, heads=3, patch=4, dtype="bfloat16"),
              paper=dict(variant="B", patch=16, init_std=0.02, dtype="bfloat16", remat="dots") | paper,
              digits=dict(width=64, depth=3, heads=2, patch=7),
              tiny=dict(width=16, depth=2, heads=2, patch=4))


def decoder(scale: str) -> dict:
  """A narrow ViT decoder (MAE's at the paper's scale)."""
  return pick(scale, cifar10=dict(width=96, depth=4, heads=3, dtype="bfloat16"),
              paper=dict(width=512, depth=8, heads=16, init_std=0.02, dtype="bfloat16", remat="dots"),
              digits=dict(width=48, depth=1, heads=2), tiny=dict(width=16, depth=1, heads=2))


def views(scale: str, kind: str, /, *, count: int = 2, **paper: Any) -> dict:
  """A published set of views (views.PUBLISHED) at the paper's scale with the fields `paper`; the same without
  blur on CIFAR-10; of digits `count` warps, since they have no colour and left is not right."""
  return pick(scale, cifar10=dict(kind=kind, size=32, small=True) | _without_locals(kind),
              paper=dict(kind=kind, size=224) | paper, digits=warps(count),
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
