r"""Joint embedding with nothing against collapse goes to a constant; then each prevention in turn stops it.

python -m jepa.study --config=configs/collapse.py --workdir=runs/collapse

A ViT 64 x 3 of patch 7 on 4,000 MNIST digits, 1,000 steps of 64, two CPU cores. A run NAME-none is NAME
without its prevention (the flag `none`): same encoder, heads, views, optimizer and seed. There is no
projector, since it would collapse in the encoder's place.
"""
from ml_collections import ConfigDict

from jepa import recipes

# name: (label, group)
METHODS = {
    "siamese": ("Siamese: negatives beyond a margin", "contrastive"),
    "simclr": ("SimCLR: negatives", "contrastive"),
    "byol": ("BYOL: EMA and predictor", "non-contrastive"),
    "simsiam": ("SimSiam: stop-gradient and predictor", "non-contrastive"),
    "barlow": ("Barlow Twins: decorrelation", "non-contrastive"),
    "vicreg": ("VICReg: variance, covariance", "non-contrastive"),
    "wmse": ("W-MSE: whitening", "non-contrastive"),
    "swav": ("SwAV: equal partition", "non-contrastive"),
    "dino": ("DINO: centring, sharpening, EMA", "non-contrastive"),
    "lejepa": ("LeJEPA: SIGReg", "non-contrastive"),
}


def get_config(arg=None):
  scale = recipes.choice(arg, ("digits", "tiny"))
  study, runs = ConfigDict(), ConfigDict(sort_keys=False)
  study.study = dict(
      title="Collapse, and what prevents it",
      question="Does an encoder trained only to agree with itself become a constant, and does each published "
               "prevention, alone, keep it from that?",
      figure="curves", metric="knn", seeds=(0,), x="", chance=0.1, flops=0.0)
  for name, (label, group) in METHODS.items():
    for none in (True, False):
      c = recipes.of_file(__file__, name, f"{scale},none" if none else scale)
      c.args.projector = dict(widths=())
      if name == "wmse":      # as many examples as channels have no inverse covariance
        c.args.size, c.args.eps = c.batch, 0.01
      if "predictor" in c.args:
        width = 64 if scale == "digits" else 16
        c.args.predictor = dict(widths=(width, width))
      if scale == "digits":
        c.total, c.eval.every, c.eval.train_limit = "1000 steps", "10 %", 2000
        c.eval.online, c.eval.final = ("knn", "collapse"), ("linear", "knn", "collapse")
      c.eval.report, c.eval.alarm, c.log.tensorboard = False, "off", False
      c.checkpoint.every = "100 %"
      runs[f"{name}-none" if none else name] = dict(
          config=c, label=f"{label.split(':')[0]}, without" if none else label, group=group, x=0.0, note="")
  study.runs = runs
  return study
