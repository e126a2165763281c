r"""LeJEPA on 4,000 real MNIST digits with a small ConvNet: a JEPA learns in minutes on a laptop.

python -m jepa.main --config=configs/quickstart.py --workdir=runs/quickstart
"""
from jepa import config


def get_config(arg=None):
  c = config.base()
  c.total, c.batch = "600 steps", 256
  c.data = dict(source="mnist5k", args={}, train="train", test="test", workers=0, prefetch=2)
  c.method = "lejepa"
  c.args = dict(
      encoder=dict(name="convnet", widths=(32, 64, 128, 256), strides=(2, 2, 1, 2), kernels=(5, 3, 3, 3)),
      projector=dict(widths=(512, 64)),
      views=dict(kind="affine", count=2, rotate=15.0, scale=(0.86, 1.16), shear=8.5, translate=0.07,
                 elastic=0.035, thickness=0.8),
      weight=0.015, slices=256, mean=0.13, std=0.31)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=5e-3, end=5e-6, warmup="6 %"),
                 weight_decay=dict(value=0.05), clip=0.0)
  if arg == "tiny":
    return config.tiny(c, encoder=dict(name="convnet", widths=(8, 16), strides=(2, 2)),
                       projector=dict(widths=(32, 16)), slices=32)
  return c
