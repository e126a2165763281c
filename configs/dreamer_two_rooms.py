r"""The world model of Dreamer (arXiv 2301.04104), without reward and actor,
in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/dreamer_two_rooms.py --workdir=runs/dreamer_two_rooms

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
"""
from jepa import config

ARGUMENTS = ("random", "fixed", "tiny")


def get_config(arg=None):
  arg = arg or "random"
  if arg not in ARGUMENTS:
    raise ValueError(f"argument {arg!r}: write one of {', '.join(ARGUMENTS)}")
  c = config.base()
  c.total, c.batch, c.method = "6000 steps", 64, "dreamer"
  c.data = dict(source="world", args=dict(name="two_rooms", args=dict(random=arg != "fixed"), length=17, n=100000),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=256, blocks=0, strides=(2, 2, 2)),
      state=dict(memory=256, hidden=256, states=16, classes=16), decoder=dict(widths=(32, 16, 8)),
      mean=(0.0026, 0.0989), std=(0.0369, 0.2986))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse",), False, False
  c.log.every = "50 steps"
  if arg == "tiny":
    data, evaluation = c.data, c.eval
    c = config.tiny(c, encoder=dict(widths=(4, 8), outputs=16, blocks=0, strides=(2, 2)),
                    state=dict(memory=16, hidden=16, states=4, classes=4), decoder=dict(widths=(4, 4)), free=0.0)
    c.data, c.eval = data, evaluation
    c.data.args.update(length=4, n=64, test=16)
    c.eval.batch = 16
  return c
