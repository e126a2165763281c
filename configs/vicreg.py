r"""VICReg: CIFAR-10, ImageNet as published (arXiv 2105.04906), digits.

python -m jepa.main --config=configs/vicreg.py --workdir=runs/vicreg \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 90.1 % after 300 epochs, ImageNet ResNet-50 73.2 % after 1,000; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "vicreg"
  c.args = dict(
      encoder=recipes.backbone(scale, name="resnet", depth=50, zero_last=True, dtype="bfloat16"),
      views=recipes.views(scale, "byol"),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 2048, 2048), bias=False),
                             paper=dict(widths=(8192, 8192, 8192), bias=False),
                             digits=dict(widths=(256, 128))),
      invariance=recipes.pick(scale, cifar10=25.0, paper=25.0, digits=8.0), variance=25.0,
      # of 128 channels in place of 8,192 there are few pairs to sum over
      covariance=recipes.pick(scale, cifar10=1.0, paper=1.0, digits=5.0),
      none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-4)
  if scale == "paper":
    c.total, c.batch = "1000 epochs", 2048
    c.optim = recipes.lars(1.6, decay=1e-6, trust=0.001)
  return recipes.finish(c, scale)
