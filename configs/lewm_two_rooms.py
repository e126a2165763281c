r"""LeWM (arXiv 2603.19312) in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/lewm_two_rooms.py --workdir=runs/lewm_two_rooms

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
"""
from jepa import config

ARGUMENTS = ("random", "fixed", "tiny")


def get_config(arg=None):
  arg = arg or "random"
  if arg not in ARGUMENTS:
    raise ValueError(f"argument {arg!r}: write one of {', '.join(ARGUMENTS)}")
  c = config.base()
  c.total, c.batch, c.method = "6000 steps", 128, "lewm"
  c.data = dict(source="world", args=dict(name="two_rooms", args=dict(random=arg != "fixed"), length=4, n=400_000),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(width=96, depth=3, heads=3, patch=13, cls=True),
      projector=dict(widths=(512, 96), activation="gelu"),
      predictor=dict(history=3, depth=3, heads=3), weight=0.09, slices=256,
      mean=(0.0026, 0.0989), std=(0.0369, 0.2986))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=5e-4, end=5e-7, warmup="1 %"),
                 weight_decay=dict(value=1e-3), clip=1.0)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse",), False, False
  c.log.every = "50 steps"
  if arg == "tiny":
    data, evaluation = c.data, c.eval
    c = config.tiny(c, encoder=dict(width=16, depth=1, heads=2, patch=13, cls=True),
                    projector=dict(widths=(16, 16), activation="gelu"),
                    predictor=dict(history=3, depth=1, heads=2, gate_std=0.1), slices=16)
    c.data, c.eval = data, evaluation
    c.data.args.update(n=64, test=16)
    c.eval.batch = 16
  return c
