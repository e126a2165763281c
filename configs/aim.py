r"""Autoregressive patches: CIFAR-10, ImageNet as in AIM (arXiv 2401.08541), digits.

python -m jepa.main --config=configs/aim.py --workdir=runs/aim \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
The published models are larger and saw 2 billion images; paper is our ImageNet-1k form; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "aim"
  c.args = dict(
      encoder=recipes.vit(scale), views=recipes.views(scale, "mae", count=1, scale=(0.4, 1.0)), prefix=True,
      head=recipes.pick(scale, cifar10=dict(hidden=(768, 768)), paper=dict(hidden=(2048, 2048, 2048)),
                        digits=dict(hidden=(128,)), tiny=dict(hidden=(16,))), **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(6e-4, decay=0.05, warmup="10 epochs", b2=0.95)
  if scale == "paper":
    c.total, c.batch = "800 epochs", 4096
    c.optim = recipes.adamw(1e-3, decay=0.05, warmup="40 epochs", b2=0.95, clip=1.0)
  return recipes.finish(c, scale)
