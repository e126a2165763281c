r"""Supervision by text, SigLIP or CLIP: CIFAR-10 and digits by class names, a TSV of captions.

python -m jepa.main --config=configs/clip.py --workdir=runs/clip \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none, clip (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
paper: ViT-B/16 on a TSV of captions, --config.data.args.path=captions.tsv; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg, flags=('none', 'clip'))

  c.method = "clip"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="B", patch=16, dtype="bfloat16", remat="dots"),
      text=recipes.pick(scale, cifar10=dict(width=128, depth=4, heads=4),
                        paper=dict(width=512, depth=12, heads=8, dtype="bfloat16"),
                        digits=dict(width=64, depth=2, heads=2), tiny=dict(width=16, depth=1, heads=2)),
      views=recipes.views(scale, "supervised", count=1),
      width=recipes.pick(scale, cifar10=256, paper=512, digits=64, tiny=16),
      loss="clip" if "clip" in flags else "siglip",
      length=recipes.pick(scale, cifar10=64, paper=128, digits=32),
      names=recipes.pick(scale, cifar10=recipes.OBJECTS, paper=(), digits=recipes.DIGITS,
                         tiny=recipes.DIGITS[:4]), none="none" in flags, **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.adamw(1e-3, decay=0.05, warmup="5 epochs")
  if scale == "paper":
    c.total, c.batch = "30 epochs", 4096
    c.data = dict(source="captions", args=dict(path="", size=256, length=128), train="train", test="test",
                  workers=16, prefetch=4)
    c.optim = recipes.adamw(1e-3, decay=0.1, warmup="2000 steps", b2=0.95)
  if scale == "digits":
    c.optim = recipes.adamw(2e-3)
  return recipes.finish(c, scale)
