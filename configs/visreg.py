r"""VISReg: CIFAR-10, ImageNet (arXiv 2606.02572), digits.

python -m jepa.main --config=configs/visreg.py --workdir=runs/visreg \
    --config.data.args.data_dir=$HOME/tensorflow_datasets

Argument: cifar10 (default), paper, digits, tiny; none (jepa/recipes.py).
CIFAR-10: one GPU, not run here.
The paper scale takes LeJEPA's recipe; not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, scale, flags = recipes.start(arg)

  c.method = "visreg"
  c.args = dict(
      encoder=recipes.backbone(scale, name="vit", variant="B", patch=16, dtype="bfloat16", remat="dots"),
      views=recipes.views(scale, "lejepa", local_count=6, local_size=96),
      projector=recipes.pick(scale, cifar10=dict(widths=(2048, 2048, 128)),
                             paper=dict(widths=(2048, 2048, 128)), digits=dict(widths=(256, 64))),
      weight=recipes.pick(scale, cifar10=0.9, paper=0.9, digits=0.5), slices=256, none="none" in flags,
      **recipes.pixels(scale))
  if scale == "cifar10":
    c.optim = recipes.lars(0.3, decay=1e-4)
  if scale == "paper":
    c.total, c.batch = "100 epochs", 512
    c.optim = recipes.adamw(5e-4, decay=0.05, warmup="10 epochs")
  return recipes.finish(c, scale)
