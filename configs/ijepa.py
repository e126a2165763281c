r"""I-JEPA at the scales of the other methods; with SIGReg or VICReg in place of the teacher.

python -m jepa.main --config=configs/ijepa.py --workdir=runs/ijepa \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none, sigreg, vicreg (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
paper: ViT-B/16; the published ViT-H/14 is configs/ijepa_in1k.py; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=('none', 'sigreg', 'vicreg'))

  alone = "sigreg" in flags or "vicreg" in flags        # without a teacher
  c.method = "ijepa"
  c.args = dict(
      encoder=recipes.vit(scale),
      predictor=recipes.pick(
          scale, cifar10=dict(width=96, depth=4, heads=3, joint=True, dtype="bfloat16"),
          paper=dict(width=384, depth=6, heads=12, init_std=0.02, dtype="bfloat16", remat="dots"),
          digits=dict(width=64, depth=2, heads=1, joint=True),
          tiny=dict(width=16, depth=1, heads=2, joint=True)),
      masks=dict(blocks=4, target_scale=(0.15, 0.2), target_aspect=(0.75, 1.5), context_scale=(0.85, 1.0)),
      ema=None if alone else dict(kind="linear", value=0.996, end=1.0),
      sigreg=dict(weight=0.02, slices=256) if "sigreg" in flags else None,
      vicreg=dict(variance=1.0, covariance=0.04) if "vicreg" in flags else None, none="none" in flags,
      view=recipes.views(scale, "mae", count=1, scale=(0.3, 1.0), flip=0.0),
      target_layers=recipes.pick(scale, cifar10=4, paper=0, digits=3, tiny=2),
      target_norm=recipes.pick(scale, cifar10="centred", paper="layer", digits="centred"),
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(1e-3, decay=0.05, warmup="10 epochs", clip=1.0)
  elif scale == "paper":
    c.total, c.batch = "600 epochs", 2048
    c.optim = recipes.adamw(1e-3, decay=dict(kind="cosine", value=0.04, end=0.4), warmup="40 epochs")
  else:
    c.optim = recipes.adamw(2e-3, warmup="10 %", b2=0.99, clip=1.0)
  return recipes.finish(c, scale)
