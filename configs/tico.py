r"""TiCo: CIFAR-10, ImageNet as published (arXiv 2206.10698), digits.

python -m jepa.main --config=configs/tico.py --workdir=runs/tico \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10 and ImageNet: GPUs, not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "tico"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "byol"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 256)), paper=dict(widths=(4096, 4096, 256)),
                             digits=dict(widths=(256, 64))),
      rho=recipes.pick(scale, cifar10=20.0, paper=20.0, digits=8.0),
      ema=dict(kind="cosine", value=recipes.pick(scale, cifar10=0.99, paper=0.99, digits=0.95), end=1.0),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(1.0, decay=1e-5)
  if scale == "paper":
    c.total, c.batch = "1000 epochs", 4096
    c.optim = recipes.lars(3.2, decay=1.5e-6, trust=0.001)
  return recipes.finish(c, scale)
