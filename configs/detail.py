r"""Digits over textured noise of growing contrast: reconstruction against joint embedding.

python -m jepa.study --config=configs/detail.py --workdir=runs/detail

The claim under test: reconstruction spends itself on unpredictable detail and its features fall as there is
more of it; joint embedding's do not. The methods are some that learn at this compute without texture
(configs/compare.py); I-JEPA does not. A ViT 64 x 3 of patch 7, 4,000 MNIST digits each over a texture of its
own, which all views of an image share, 2 TFLOP a run (counted), two CPU cores.
"""
from ml_collections import ConfigDict

from jepa import recipes

CONTRASTS = (0.0, 0.5, 1.0)
METHODS = {
    "simclr": ("SimCLR", "contrastive"),
    "vicreg": ("VICReg", "non-contrastive"),
    "lejepa": ("LeJEPA", "non-contrastive"),
    "mae": ("MAE", "reconstruction"),
    "dae": ("Denoising AE", "reconstruction"),
    "vae": ("VAE", "reconstruction"),
    "supervised": ("Supervised, labels", "supervised"),
}


def get_config(arg=None):
  scale = recipes.choice(arg, ("digits", "tiny"))
  study, runs = ConfigDict(), ConfigDict(sort_keys=False)
  study.study = dict(
      title="Unpredictable detail",
      question="As the background fills with texture that tells nothing of the digit, do features of "
               "reconstruction lose the digit while those of joint embedding keep it?",
      figure="lines", metric="linear", seeds=(0,), x="contrast of the texture", chance=0.1,
      flops=2e12 if scale == "digits" else 0.0)
  for contrast in CONTRASTS:
    for name, (label, group) in METHODS.items():
      c = recipes.of_file(__file__, name, scale)
      if scale == "digits":
        c.data = dict(source="scenes", args=dict(canvas=28, size=(28, 28), rotate=0.0, contrast=contrast),
                      train="train", test="test", workers=0, prefetch=2)
        c.eval.final = ("linear", "knn", "segment", "collapse")
      c.eval.floors = name == next(iter(METHODS))     # of the data and the backbone: once for every contrast
      c.eval.online, c.eval.report, c.log.tensorboard = (), False, False
      c.checkpoint.every = "100 %"
      runs[f"{name}-{round(100 * contrast):03d}"] = dict(config=c, label=label, group=group, x=contrast,
                                                         note="")
  study.runs = runs
  return study
