r"""DINO: CIFAR-10, ImageNet as published (arXiv 2104.14294), digits.

python -m jepa.main --config=configs/dino.py --workdir=runs/dino \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ViT-S/16 77.0 % linear, 74.5 % kNN after 800 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "dino"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="S", patch=16, cls=True, dtype="bfloat16"),
      views=recipes.views(scale, "dino", local_count=8, local_size=96),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 2048, 256), activation="gelu"),
                             paper=dict(widths=(2048, 2048, 256), norm=False, activation="gelu"),
                             digits=dict(widths=(256, 64), activation="gelu")),
      prototypes=recipes.pick(scale, cifar10=4096, paper=65536, digits=256, tiny=16),
      student_temperature=0.1,
      teacher_temperature=recipes.pick(scale, cifar10=dict(start=0.04, value=0.07, warmup="30 epochs"),
                                       paper=dict(start=0.04, value=0.07, warmup="30 epochs"),
                                       digits=dict(value=0.04)),
      ema=dict(kind="cosine", value=recipes.pick(scale, cifar10=0.99, paper=0.996, digits=0.99), end=1.0),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-6, clip=3.0, groups=(dict(match="prototypes", start="1 epoch"),))
  if scale == "paper":
    c.total, c.batch = "800 epochs", 1024
    c.optim = recipes.adamw(2e-3, decay=dict(kind="cosine", value=0.04, end=0.4), warmup="10 epochs",
                            clip=3.0, groups=(dict(match="prototypes", start="1 epoch"),))
  return recipes.finish(c, scale)
