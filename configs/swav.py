r"""SwAV: CIFAR-10, ImageNet as published (arXiv 2006.09882), digits.

python -m jepa.main --config=configs/swav.py --workdir=runs/swav \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: ImageNet ResNet-50 75.3 % after 800 epochs; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "swav"
  c.args = dict(
      encoder=recipes.backbone(scale),
      views=recipes.views(scale, "simclr", scale=(0.14, 1.0), local_count=6, local_size=96,
                          local_scale=(0.05, 0.14)),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 128)), paper=dict(widths=(2048, 128)),
                             digits=dict(widths=(256, 64))),
      prototypes=recipes.pick(scale, cifar10=256, paper=3000, digits=64, tiny=8), epsilon=0.05,
      temperature=recipes.pick(scale, cifar10=0.1, paper=0.1, digits=0.2), iterations=3,
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.6, decay=1e-6, groups=(dict(match="prototypes", start="1 epoch"),))
  if scale == "paper":
    c.total, c.batch = "800 epochs", 4096
    c.optim = recipes.lars(4.8, decay=1e-6, trust=0.001, groups=(dict(match="prototypes", start="1 epoch"),))
  if scale == "digits":
    c.optim = recipes.adamw(2e-3)
  return recipes.finish(c, scale)
