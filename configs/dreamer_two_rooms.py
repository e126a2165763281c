r"""The world model of Dreamer (arXiv 2301.04104), without reward and actor,
in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/dreamer_two_rooms.py --workdir=runs/dreamer_two_rooms

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, arg = recipes.two_rooms(arg, length=17, n=100_000)
  c.method = "dreamer"
  c.args = dict(
      encoder=dict(widths=(16, 32, 32), outputs=256, blocks=0, strides=(2, 2, 2)),
      state=dict(memory=256, hidden=256, states=16, classes=16), decoder=dict(widths=(32, 16, 8)),
      **recipes.TWO_ROOMS)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-5, warmup="2 %"),
                 weight_decay=dict(value=1e-5), clip=2.0)
  if arg == "tiny":
    return recipes.tiny_trajectories(
        c, encoder=dict(widths=(4, 8), outputs=16, blocks=0, strides=(2, 2)),
        state=dict(memory=16, hidden=16, states=4, classes=4), decoder=dict(widths=(4, 4)), free=0.0)
  return c
