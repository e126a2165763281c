r"""BYOL: CIFAR-10, ImageNet as published (arXiv 2006.07733), digits.

python -m jepa.main --config=configs/byol.py --workdir=runs/byol \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 92.6 % after 1,000 epochs (solo-learn), ImageNet ResNet-50 74.3 %; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "byol"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "byol"),
      projector=recipes.pick(scale, cifar10=dict(widths=(4096, 256)), paper=dict(widths=(4096, 256)),
                             digits=dict(widths=(256, 64))),
      predictor=recipes.pick(scale, cifar10=dict(widths=(4096, 256)), paper=dict(widths=(4096, 256)),
                             digits=dict(widths=(256, 64))),
      ema=dict(kind="cosine", value=recipes.pick(scale, cifar10=0.99, paper=0.996, digits=0.95), end=1.0),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(1.0, decay=1e-5)
  if scale == "paper":
    c.total, c.batch = "1000 epochs", 4096
    c.optim = recipes.lars(3.2, decay=1.5e-6, trust=0.001)
  if scale == "digits":
    c.optim = recipes.adamw(2e-3)
  return recipes.finish(c, scale)
