r"""data2vec: CIFAR-10, ImageNet as published (arXiv 2202.03555), digits.

python -m jepa.main --config=configs/data2vec.py --workdir=runs/data2vec \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ViT-B/16 84.2 % fine-tuned after 800 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "data2vec"
  c.args = dict(
      encoder=recipes.vit(scale), views=recipes.views(scale, "mae", count=1), share=(0.61, 0.61),
      layers=recipes.pick(scale, cifar10=6, paper=6, digits=3, tiny=2), beta=2.0,
      ema=recipes.pick(scale, cifar10=dict(kind="linear", value=0.996, end=0.9999),
                       paper=dict(kind="linear", value=0.999, end=0.9998),
                       digits=dict(kind="linear", value=0.99, end=1.0)),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(1e-3, decay=0.05, warmup="10 epochs", clip=3.0)
  if scale == "paper":
    c.total, c.batch = "800 epochs", 2048
    c.optim = recipes.adamw(2e-3, decay=0.05, warmup="10 epochs", clip=3.0)
  return recipes.finish(c, scale)
