r"""Siamese networks with a margin: CIFAR-10, ImageNet, digits.

python -m jepa.main --config=configs/siamese.py --workdir=runs/siamese \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
There is no published ImageNet recipe; paper takes SimCLR's.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "siamese"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "simclr"),
      margin=recipes.pick(scale, cifar10=1.0, paper=1.0, digits=8.0),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 128)), paper=dict(widths=(2048, 128)),
                             digits=dict(widths=(256, 32))),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-4)
  if scale == "paper":
    c.total, c.batch = "100 epochs", 2048
    c.optim = recipes.lars(2.4, decay=1e-6, trust=0.001)
  return recipes.finish(c, scale)
