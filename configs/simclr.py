r"""SimCLR: CIFAR-10, ImageNet as published (arXiv 2002.05709), digits.

python -m jepa.main --config=configs/simclr.py --workdir=runs/simclr \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 90.7 % after 1,000 epochs (solo-learn), ImageNet ResNet-50 69.3 %; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "simclr"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "simclr"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 256)), paper=dict(widths=(2048, 2048, 128)),
                             digits=dict(widths=(256, 64))),
      temperature=recipes.pick(scale, cifar10=0.2, paper=0.1, digits=0.2),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.4, decay=1e-5)
  if scale == "paper":
    c.total, c.batch = "1000 epochs", 4096
    c.optim = recipes.lars(4.8, decay=1e-4, trust=0.001)
  return recipes.finish(c, scale)
