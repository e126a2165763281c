r"""PLDM (arXiv 2502.14819) on the camera of a small real car on a track (Donkey Car), frames at 64x64.

python -m jepa.main --config=configs/pldm_donkey.py --workdir=runs/pldm_donkey

Argument: tiny (a synthetic recording, seconds). A step of the model is a tenth of a second: 2 recorded
steps of steering and throttle. A fifth of the 127 unbroken runs is held out; the evaluation imagines them
open loop. There are no positions. Weights of the losses as published for Wall. One CPU core: 5 minutes; 8
steps ahead the error is 0.14 of the distance of unrelated frames, 0.37 with the actions of another
window, 0.88 if nothing moves (seed 0).
"""
from jepa import config, recipes


def get_config(arg=None):
  if arg not in (None, "", "tiny"):
    raise ValueError(f"argument {arg!r}: write tiny, or nothing")
  c = config.base()
  c.total, c.batch, c.method = "1500 steps", 64, "pldm"
  c.data = dict(source="trajectories",
                args=dict(path="../shared/data/donkey_track", size=64, length=9, frameskip=2),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=128, blocks=0, strides=(4, 2, 2)),
      predictor=dict(kind="mlp", width=256),
      prediction=1.0, variance=3.98, covariance=6.92, smoothness=0.742, temporal_variance=0.245,
      inverse=1.072,
      mean=(0.463, 0.461, 0.429), std=(0.129, 0.140, 0.160))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  c.eval.online, c.eval.final, c.eval.report = (), ("collapse", "open_loop"), False
  c.eval.batch = 100
  c.log.every = "50 steps"
  if arg == "tiny":
    c = recipes.tiny_trajectories(
        c, encoder=dict(widths=(4, 8), outputs=16, blocks=1, strides=(2, 2)),
        predictor=dict(kind="gru", width=8), mean=0.5, std=0.25)
    c.data.args = dict(path="synthetic", length=4, frameskip=2)
  return c
