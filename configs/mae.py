r"""MAE: CIFAR-10, ImageNet as published (arXiv 2111.06377), digits.

python -m jepa.main --config=configs/mae.py --workdir=runs/mae \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ViT-B/16 68.0 % linear, 83.6 % fine-tuned after 1,600 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "mae"
  c.args = dict(
      encoder=recipes.vit(scale, cls=True), decoder=recipes.decoder(scale),
      views=recipes.views(scale, "mae", count=1), hidden=0.75, normalised=True, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(6e-4, decay=0.05, warmup="10 epochs", b2=0.95)
  if scale == "paper":
    c.total, c.batch = "1600 epochs", 4096
    c.optim = recipes.adamw(2.4e-3, decay=0.05, warmup="40 epochs", b2=0.95)
  return recipes.finish(c, scale)
