r"""Variational autoencoder: CIFAR-10, ImageNet, digits.

python -m jepa.main --config=configs/vae.py --workdir=runs/vae \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
There is no published recipe for these backbones; paper takes MAE's length; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=())

  c.method = "vae"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="B", patch=16, dtype="bfloat16", remat="dots"),
      decoder=recipes.decoder(scale), views=recipes.views(scale, "mae", count=1),
      latent=recipes.pick(scale, cifar10=128, paper=512, digits=32, tiny=8), beta=1.0, noise=0.5,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(6e-4, decay=0.05, warmup="10 epochs", b2=0.95)
  if scale == "paper":
    c.total, c.batch = "800 epochs", 4096
    c.optim = recipes.adamw(2.4e-3, decay=0.05, warmup="40 epochs", b2=0.95)
  return recipes.finish(c, scale)
