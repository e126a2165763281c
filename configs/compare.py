r"""Every method on one backbone, one data set, one protocol and equal compute, with the floors.

python -m jepa.study --config=configs/compare.py --workdir=runs/compare
python -m jepa.study --config=configs/compare.py:cifar10 --workdir=runs/compare_cifar10

Default: a ViT 64 x 3 of patch 7 on 4,000 MNIST digits, 2 TFLOP a run (counted), two CPU cores. cifar10: a ViT
192 x 12 of patch 4 on CIFAR-10, 30 PFLOP a run, one GPU; not run here.
"""
from ml_collections import ConfigDict

from jepa import recipes

# name: (config, flags, label, group)
METHODS = {
    "siamese": ("siamese", "", "Siamese, margin", "contrastive"),
    "simclr": ("simclr", "", "SimCLR", "contrastive"),
    "mocov2": ("mocov2", "", "MoCo v2", "contrastive"),
    "mocov3": ("mocov3", "", "MoCo v3", "contrastive"),
    "byol": ("byol", "", "BYOL", "non-contrastive"),
    "simsiam": ("simsiam", "", "SimSiam", "non-contrastive"),
    "barlow": ("barlow", "", "Barlow Twins", "non-contrastive"),
    "vicreg": ("vicreg", "", "VICReg", "non-contrastive"),
    "wmse": ("wmse", "", "W-MSE", "non-contrastive"),
    "swav": ("swav", "", "SwAV", "non-contrastive"),
    "dino": ("dino", "", "DINO", "non-contrastive"),
    "lejepa": ("lejepa", "", "LeJEPA", "non-contrastive"),
    "visreg": ("visreg", "", "VISReg", "non-contrastive"),
    "ijepa": ("ijepa", "", "I-JEPA", "masked latent"),
    "ijepa-sigreg": ("ijepa", "sigreg", "I-JEPA, SIGReg", "masked latent"),
    "ijepa-vicreg": ("ijepa", "vicreg", "I-JEPA, VICReg", "masked latent"),
    "data2vec": ("data2vec", "", "data2vec", "masked latent"),
    "ibot": ("ibot", "", "iBOT", "masked latent"),
    "dae": ("dae", "", "Denoising AE", "reconstruction"),
    "mae": ("mae", "", "MAE", "reconstruction"),
    "simmim": ("simmim", "", "SimMIM", "reconstruction"),
    "aim": ("aim", "", "AIM", "reconstruction"),
    "vae": ("vae", "", "VAE", "reconstruction"),
    "bigan": ("bigan", "", "BiGAN", "reconstruction"),
    "supervised": ("supervised", "", "Supervised, labels", "supervised"),
    "clip": ("clip", "", "SigLIP, class names", "supervised"),
}


def get_config(arg=None):
  scale = recipes.choice(arg, ("digits", "cifar10", "tiny"))
  study, runs = ConfigDict(), ConfigDict(sort_keys=False)
  study.study = dict(
      title="Joint embedding, reconstruction and supervision on one backbone",
      question="With equal compute on the same architecture and data, which objective gives the features "
               "that linear probes, few labels, neighbours, fine-tuning and segmentation profit from?",
      figure="bars", metric="knn", seeds=(0, 1, 2), x="", chance=0.1,
      flops={"digits": 2e12, "cifar10": 3e16, "tiny": 0.0}[scale])
  for name, (file, flags, label, group) in METHODS.items():
    c = recipes.of_file(__file__, file, ",".join([scale, *flags.split()]))
    if scale == "cifar10":      # one backbone for all
      c.args.encoder = recipes.vit(scale)
      c.eval.args = dict(linear=dict(limit=200), lowshot=dict(labels=50))
      c.eval.final = ("linear", "lowshot", "knn", "finetune", "collapse")
    if scale == "digits":
      c.eval.args = dict(lowshot=dict(labels=4), finetune=dict(epochs=5))
      c.eval.final = ("linear", "lowshot", "knn", "finetune", "segment", "collapse")
    c.eval.floors = name == next(iter(METHODS))       # the same for all: measured beside the first
    c.eval.online, c.eval.report, c.log.tensorboard = (), False, False
    c.checkpoint.every = "100 %"
    runs[name] = dict(config=c, label=label, group=group, x=0.0, note="")
  study.runs = runs
  return study
