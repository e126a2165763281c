r"""I-JEPA's masks with SIGReg and no teacher, on 4,000 MNIST digits: the same encoder gives context and
targets.

python -m jepa.main --config=configs/ijepa_sigreg_digits.py --workdir=runs/ijepa_sigreg_digits
"""
from jepa import config


def get_config(arg=None):
  c = config.base()
  c.total, c.batch = "9000 steps", 64
  c.data = dict(source="mnist5k", args={}, train="train", test="test", workers=0, prefetch=2)
  c.method = "ijepa"
  c.args = dict(
      encoder=dict(width=64, depth=3, heads=2, patch=4),
      predictor=dict(width=64, depth=2, heads=1, joint=True),
      masks=dict(blocks=4, target_scale=(0.15, 0.2), target_aspect=(0.75, 1.5), context_scale=(0.85, 1.0)),
      ema=None, sigreg=dict(weight=0.02, slices=256),
      view=dict(kind="affine", count=1, rotate=0.0, scale=(0.8, 1.25), shear=0.0, translate=0.07),
      target_norm="centred", mean=0.13, std=0.31)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="10 %"),
                 weight_decay=dict(value=0.05), b2=0.99, clip=1.0)
  c.eval.pool = "mean_std"
  c.log.every = "50 steps"
  if arg == "tiny":
    return config.tiny(c, encoder=dict(width=32, depth=2, heads=2, patch=4),
                       predictor=dict(width=16, depth=1, heads=2, joint=True))
  return c
