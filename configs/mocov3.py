r"""MoCo v3: CIFAR-10, ImageNet as published (arXiv 2104.02057), digits.

python -m jepa.main --config=configs/mocov3.py --workdir=runs/mocov3 \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
Published: CIFAR-10 ResNet-18 93.1 % after 1,000 epochs (solo-learn), ViT-B 76.7 % after 300; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "mocov3"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="B", patch=16, cls=True, dtype="bfloat16",
                               remat="dots"),
      views=recipes.views(scale, "mocov3"),
      projector=recipes.pick(scale, cifar10=dict(widths=(4096, 256), last="unscaled"),
                             paper=dict(widths=(4096, 4096, 256), last="unscaled"),
                             digits=dict(widths=(256, 64), last="unscaled")),
      predictor=recipes.pick(scale, cifar10=dict(widths=(4096, 256), last="unscaled"),
                             paper=dict(widths=(4096, 256), last="unscaled"),
                             digits=dict(widths=(256, 64), last="unscaled")),
      temperature=0.2, none="none" in flags,
      ema=dict(kind="cosine", value=recipes.pick(scale, cifar10=0.99, paper=0.99, digits=0.95), end=1.0),
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-6)
  if scale == "paper":
    c.total, c.batch = "300 epochs", 4096
    c.optim = recipes.adamw(2.4e-3, decay=0.1, warmup="40 epochs",
                            groups=(dict(match="encoder/patch", lr=0.0),))       # frozen, as published
  return recipes.finish(c, scale)
