r"""BiGAN: CIFAR-10, ImageNet, digits.

python -m jepa.main --config=configs/bigan.py --workdir=runs/bigan \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published on other networks (arXiv 1605.09782); here on the common backbone; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "bigan"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="B", patch=16, dtype="bfloat16", remat="dots"),
      decoder=recipes.decoder(scale), views=recipes.views(scale, "mae", count=1),
      discriminator=recipes.pick(
          scale, cifar10=dict(width=128, depth=4, heads=2, patch=4), paper=dict(variant="S", patch=16),
          digits=dict(width=48, depth=2, heads=2, patch=7), tiny=dict(width=16, depth=1, heads=2, patch=4)),
      latent=recipes.pick(scale, cifar10=128, paper=512, digits=32, tiny=8),
      hidden=recipes.pick(scale, cifar10=512, paper=1024, digits=128, tiny=16), penalty=0.1,
      **recipes.pixels(scale))
  c.optim = recipes.adamw(recipes.pick(scale, cifar10=2e-4, paper=1e-4, digits=5e-4), decay=0.0, b1=0.5,
                          b2=0.99)
  if scale == "paper":
    c.total, c.batch = "400 epochs", 1024
  return recipes.finish(c, scale)
