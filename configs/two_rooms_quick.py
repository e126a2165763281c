r"""PLDM (arXiv 2502.14819) in Two Rooms with a fixed wall: a world model that plans, in minutes on a laptop.

python -m jepa.main --config=configs/two_rooms_quick.py --workdir=runs/two_rooms_quick
python -m jepa.plan --workdir=runs/two_rooms_quick

The second prints the success rate beside its floors and draws episodes (runs/two_rooms_quick/planning).
"""
from jepa import config, recipes


def get_config(arg=None):
  c = config.base()
  c.total, c.batch, c.method = "3000 steps", 64, "pldm"
  c.data = dict(source="world", train="train", test="test", workers=0, prefetch=2,
                args=dict(name="two_rooms", args=dict(random=False, aimed=0.3), length=17, span=91,
                          n=1_000_000))
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=64, blocks=0, strides=(5, 2, 2), patches=True),
      predictor=dict(kind="mlp", width=128, depth=3, norm=True, activation="relu"),
      prediction=3.0, variance=16.0, covariance=8.0, smoothness=12.0, temporal_variance=0.0, inverse=1.0,
      **recipes.TWO_ROOMS)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=2e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse", "open_loop"), False, False
  c.eval.args, c.eval.levels = {}, dict(alpha=None)      # few numbers describe a room: the spectrum is steep
  c.log.every = "50 steps"
  c.plan = dict(planner="tree", horizon=60, every=10, last=0, args=dict(width=8, branches=4, hold=6, std=3.0))
  if arg == "tiny":
    c = recipes.tiny_trajectories(
        c, encoder=dict(widths=(4, 8), outputs=16, blocks=0, strides=(4, 2)),
        predictor=dict(kind="mlp", width=8, depth=2, norm=True))
    c.data.args.update(length=4, span=9, n=64, test=16)
  return c
