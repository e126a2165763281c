r"""Barlow Twins: CIFAR-10, ImageNet as published (arXiv 2103.03230), digits.

python -m jepa.main --config=configs/barlow.py --workdir=runs/barlow \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 92.1 % after 1,000 epochs (solo-learn), ImageNet ResNet-50 73.2 %; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "barlow"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "byol"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 2048)), paper=dict(widths=(8192, 8192, 8192)),
                             digits=dict(widths=(256, 128))),
      off_diagonal=recipes.pick(scale, cifar10=5e-3, paper=5.1e-3, digits=0.02),
      scale=recipes.pick(scale, cifar10=0.1, paper=1.0, digits=0.1), none="none" in flags,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-4)
  if scale == "paper":      # biases and norms learn at 0.0048 against 0.2 of the weights
    c.total, c.batch = "1000 epochs", 2048
    c.optim = recipes.lars(1.6, decay=1e-6, trust=0.001,
                           groups=(dict(match="(bias|scale)$", lr=0.024),))
  return recipes.finish(c, scale)
