"""I-JEPA on CIFAR-10, with a ViT of patch 4: a small recipe that works on two cores, and one for a GPU.

python -m jepa.main --config=configs/ijepa_cifar10.py --workdir=runs/ijepa_cifar10 \
    --config.data.args.data_dir=$HOME/tensorflow_datasets
python -m jepa.main --config=configs/ijepa_cifar10.py:full --workdir=runs/ijepa_cifar10_full

The data: `tfds build cifar10 --file_format=array_record`, once, on a machine with TensorFlow; data_dir is
where it lies.
"""
from jepa import config


def get_config(arg=None):
  full = arg == "full"
  c = config.base()
  c.total, c.batch = ("600 epochs", 512) if full else ("18000 steps", 64)
  c.data = dict(source="tfds", args=dict(name="cifar10", data_dir=""), train="train", test="test", workers=0,
                prefetch=2)
  c.method = "ijepa"
  c.args = dict(
      encoder=dict(width=384, depth=8, heads=6, patch=4, dtype="bfloat16") if full else dict(
          width=96, depth=4, heads=2, patch=4),
      predictor=dict(width=192, depth=4, heads=3, dtype="bfloat16") if full else dict(
          width=64, depth=2, heads=1, joint=True),
      masks=dict(blocks=4, target_scale=(0.15, 0.2), target_aspect=(0.75, 1.5), context_scale=(0.85, 1.0)),
      ema=dict(kind="linear", value=0.996, end=1.0),
      view=dict(kind="crops", count=1, size=32, scale=(0.4, 1.0), flip=0.5),
      photometric=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, gray=0.2, blur=0.0),
      target_layers=4, target_norm="centred", mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="10 %"),
                 weight_decay=dict(value=0.05), b2=0.99, clip=1.0)
  c.eval.pool, c.eval.train_limit = "mean_std", 5000
  c.eval.args = dict(linear=dict(limit=200))      # 50,000 x 3,072 pixels: enough for a floor
  c.eval.every = "20 %"
  c.log.every = "50 steps"
  if arg == "tiny":
    return config.tiny(c, encoder=dict(width=32, depth=2, heads=2, patch=4),
                       predictor=dict(width=16, depth=1, heads=2, joint=True),
                       target_layers=2, view=dict(kind="crops", count=1, size=16, scale=(0.4, 1.0), flip=0.5))
  return c
