r"""W-MSE: CIFAR-10 as published (arXiv 2007.06346), ImageNet, digits.

python -m jepa.main --config=configs/wmse.py --workdir=runs/wmse \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 91.6 % (W-MSE 2, 1,000 epochs); ImageNet: our guess; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "wmse"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "wmse"),
      projector=recipes.pick(scale, cifar10=dict(widths=(1024, 64)), paper=dict(widths=(1024, 128)),
                             digits=dict(widths=(256, 32)), tiny=dict(widths=(16, 4))),
      size=recipes.pick(scale, cifar10=128, paper=256, digits=64, tiny=8), iterations=1,
      eps=recipes.pick(scale, cifar10=0.0, paper=0.0, digits=1e-3, tiny=1e-2), none="none" in flags,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(2e-3, decay=1e-6, warmup="500 steps")
  if scale == "paper":
    c.total, c.batch = "100 epochs", 1024
    c.optim = recipes.adamw(2e-3, decay=1e-6, warmup="10 epochs")
  return recipes.finish(c, scale)
