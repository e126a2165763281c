r"""SimMIM: CIFAR-10, ImageNet as published (arXiv 2111.09886), digits.

python -m jepa.main --config=configs/simmim.py --workdir=runs/simmim \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ViT-B/16 83.8 % fine-tuned after 800 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "simmim"
  c.args = dict(
      encoder=recipes.vit(scale), views=recipes.views(scale, "mae", count=1, scale=(0.67, 1.0)), hidden=0.6,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(6e-4, decay=0.05, warmup="10 epochs")
  if scale == "paper":
    c.total, c.batch = "800 epochs", 2048
    c.optim = recipes.adamw(8e-4, decay=0.05, warmup="20 epochs", clip=5.0)
  if scale == "digits":
    c.optim = recipes.adamw(1e-3)
  return recipes.finish(c, scale)
