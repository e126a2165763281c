r"""Supervision by labels: CIFAR-10, ImageNet, digits.

python -m jepa.main --config=configs/supervised.py --workdir=runs/supervised \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ResNet-50 about 76 % after 90 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "supervised"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "supervised", count=1),
      classes=recipes.pick(scale, cifar10=10, paper=1000, digits=10, tiny=4), smoothing=0.0,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.sgd(0.1, decay=5e-4, warmup="5 epochs")
  if scale == "paper":
    c.total, c.batch = "90 epochs", 1024
    c.optim = recipes.sgd(0.4, decay=1e-4, warmup="5 epochs")
  return recipes.finish(c, scale)
