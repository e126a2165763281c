r"""PLDM in Two Rooms (arXiv 2502.14819), wall and door drawn for every layout, trajectories made inside the
step.

python -m jepa.main --config=configs/two_rooms.py --workdir=runs/two_rooms
python -m jepa.plan --workdir=runs/two_rooms

Half an hour on one CPU core, then 81 to 96 % of 200 episodes; published: 97 +- 2 % (MPPI, a GPU). Half an
hour more, 98.5 %: two predictors over the frozen encoder.

python -m jepa.main --config=configs/two_rooms.py:predictor --workdir=runs/two_rooms_predictor
python -m jepa.plan --workdir=runs/two_rooms_predictor

Argument: random (default), predictor, tiny; published: the released encoder, predictor, data and weights, for
one GPU (not run here). "predictor" freezes the encoder of a run (--config.init.encoder=DIR, default
runs/two_rooms) and learns two predictors with gates over it, from more trajectories a second.
configs/two_rooms_quick.py has the fixed wall.
"""
from jepa import config, recipes


def get_config(arg=None):
  arg = recipes.choice(arg, ("random", "predictor", "published", "tiny"))
  c = config.base()
  c.total, c.batch, c.method = "8000 steps", 128, "pldm"
  c.data = dict(
      source="world", train="train", test="test", workers=0, prefetch=2,
      args=dict(name="two_rooms", args=dict(random=True, aimed=0.4, jambs=0.5, fast=0.3), length=9, span=91,
                n=1_000_000))
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=128, blocks=0, strides=(5, 2, 2), patches=True),
      predictor=dict(kind="mlp", width=256, depth=3, norm=True),
      # Walls and doors stay as they are, so that variance comes for nothing there: without a strong inverse
      # model the state holds them alone, and not where the dot is.
      prediction=3.0, variance=16.0, covariance=8.0, smoothness=12.0, temporal_variance=0.0, inverse=10.0,
      **recipes.TWO_ROOMS)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=2e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse", "open_loop"), False, False
  c.eval.args, c.eval.levels = {}, dict(alpha=None)      # few numbers describe a room: the spectrum is steep
  c.log.every = "50 steps"
  c.plan = dict(planner="tree", horizon=60, every=10, last=0,
                args=dict(width=12, branches=8, hold=6, std=3.0))
  if arg == "predictor":
    c.total, c.args.frozen, c.args.inverse, c.optim.lr.value = "20000 steps", True, 0.0, 3e-3
    c.args.predictor.update(gated=True, members=2)
    c.args.disagreement = 1.0
    c.init.encoder, c.seed, c.data.args.n = "runs/two_rooms", 1, 4_000_000      # other trajectories
  if arg == "published":
    c.total, c.batch = "12 epochs", 384
    c.data.args.update(n=100_000, length=17)
    c.data.args.args = dict(random=True)
    c.args.inverse, c.args.encoder = 1.0, dict(widths=(32, 64, 64), outputs=512, dtype="bfloat16")
    c.args.predictor, c.args.prediction = dict(kind="gru", width=512), 1.0
  if arg == "tiny":
    c = recipes.tiny_trajectories(
        c, encoder=dict(widths=(4, 8), outputs=16, blocks=1, strides=(2, 2)),
        predictor=dict(kind="gru", width=8))
    c.data.args.update(length=4, span=9, n=64, test=16)
  return c
