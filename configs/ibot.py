r"""iBOT: CIFAR-10, ImageNet as published (arXiv 2111.07832), digits.

python -m jepa.main --config=configs/ibot.py --workdir=runs/ibot \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ViT-B/16 79.5 % linear after 400 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "ibot"
  c.args = dict(
      encoder=recipes.vit(scale, cls=True),
      views=recipes.views(scale, "dino", scale=(0.25, 1.0), local_count=10, local_size=96,
                          local_scale=(0.05, 0.25)),
      projector=recipes.pick(scale, cifar10=dict(widths=(1024, 1024, 256), activation="gelu"),
                             paper=dict(widths=(2048, 2048, 256), activation="gelu"),
                             digits=dict(widths=(256, 64), activation="gelu")),
      prototypes=recipes.pick(scale, cifar10=2048, paper=8192, digits=256, tiny=16), weight=1.0,
      student_temperature=0.1,
      teacher_temperature=recipes.pick(scale, cifar10=dict(start=0.04, value=0.07, warmup="30 epochs"),
                                       paper=dict(start=0.04, value=0.07, warmup="30 epochs"),
                                       digits=dict(value=0.04)),
      ema=dict(kind="cosine", value=recipes.pick(scale, cifar10=0.99, paper=0.996, digits=0.99), end=1.0),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(1e-3, decay=dict(kind="cosine", value=0.04, end=0.4), warmup="10 epochs",
                            clip=3.0, groups=(dict(match="prototypes", start="1 epoch"),))
  if scale == "paper":
    c.total, c.batch = "400 epochs", 1024
    c.optim = recipes.adamw(3e-3, decay=dict(kind="cosine", value=0.04, end=0.4), warmup="10 epochs",
                            clip=3.0, groups=(dict(match="prototypes", start="1 epoch"),))
  return recipes.finish(c, scale)
