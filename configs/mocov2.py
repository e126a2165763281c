r"""MoCo v2: CIFAR-10, ImageNet as published (arXiv 2003.04297), digits.

python -m jepa.main --config=configs/mocov2.py --workdir=runs/mocov2 \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ResNet-50 71.1 % after 800 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "mocov2"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "mocov2"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 256), norm=False),
                             paper=dict(widths=(2048, 128), norm=False), digits=dict(widths=(256, 64))),
      queue=recipes.pick(scale, cifar10=32768, paper=65536, digits=1024, tiny=64), temperature=0.2,
      ema=recipes.pick(scale, cifar10=dict(value=0.99), paper=dict(value=0.999), digits=dict(value=0.99)),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.sgd(0.3, decay=1e-4)
  if scale == "paper":
    c.total, c.batch = "800 epochs", 256
    c.optim = recipes.sgd(0.03, decay=1e-4, warmup="0 steps")
  return recipes.finish(c, scale)
