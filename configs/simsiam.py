r"""SimSiam: CIFAR-10, ImageNet as published (arXiv 2011.10566), digits.

python -m jepa.main --config=configs/simsiam.py --workdir=runs/simsiam \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 91.8 % after 800 epochs, ImageNet ResNet-50 68.1 % after 100; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "simsiam"
  c.args = dict(
      encoder=recipes.backbone(scale), views=recipes.views(scale, "mocov2"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 2048), last="unscaled"),
                             paper=dict(widths=(2048, 2048, 2048), last="unscaled"),
                             digits=dict(widths=(256, 128), last="unscaled")),
      predictor=recipes.pick(scale, cifar10=dict(widths=(512, 2048)), paper=dict(widths=(512, 2048)),
                             digits=dict(widths=(64, 128))),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.sgd(0.5, decay=1e-5)
  if scale == "paper":
    c.total, c.batch = "100 epochs", 512
    c.optim = recipes.sgd(0.1, decay=1e-4, warmup="0 steps")
  if scale == "digits":
    c.optim = recipes.adamw(2e-3)
  return recipes.finish(c, scale)
