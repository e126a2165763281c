r"""PLDM (arXiv 2502.14819) on 206 human demonstrations of PushT (Diffusion Policy, arXiv 2303.04137), frames
at 64x64.

python -m jepa.main --config=configs/pldm_pusht.py --workdir=runs/pldm_pusht
python -m jepa.plan --workdir=runs/pldm_pusht --world=pusht_gym        (pip install -e '.[gym]')

Argument: tiny (a synthetic recording, seconds). A step of the model is half a second: 5 recorded steps,
whose actions (where the agent shall go) stand side by side. A fifth of the demonstrations is held out;
the evaluation imagines them open loop. Weights of the losses as published for Wall. One CPU core: 5
minutes.
"""
from jepa import config, recipes


def get_config(arg=None):
  if arg not in (None, "", "tiny"):
    raise ValueError(f"argument {arg!r}: write tiny, or nothing")
  c = config.base()
  c.total, c.batch, c.method = "4000 steps", 64, "pldm"
  c.data = dict(source="trajectories",
                args=dict(path="../shared/data/pusht", size=64, length=8, frameskip=5, stride=2),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=128, blocks=0, strides=(4, 2, 2), patches=True),
      predictor=dict(kind="mlp", width=256, depth=3, norm=True),
      prediction=1.0, variance=3.98, covariance=6.92, smoothness=0.742, temporal_variance=0.245,
      inverse=1.072,
      mean=(0.973, 0.982, 0.979), std=(0.094, 0.065, 0.071))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  c.eval.online, c.eval.final, c.eval.report = (), ("collapse", "open_loop"), False
  c.eval.batch = 100
  c.log.every = "50 steps"
  c.plan = dict(planner="cem", horizon=5, every=5, last=0, args=dict(samples=200, iterations=5, elites=20))
  if arg == "tiny":
    c = recipes.tiny_trajectories(
        c, encoder=dict(widths=(4, 8), outputs=16, blocks=1, strides=(2, 2)),
        predictor=dict(kind="gru", width=8), mean=0.5, std=0.25)
    c.data.args = dict(path="synthetic", length=4, frameskip=2)
  return c
