r"""LeWM (arXiv 2603.19312) in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/lewm_two_rooms.py --workdir=runs/lewm_two_rooms

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
"""
from jepa import recipes


def get_config(arg=None):
  c, arg = recipes.two_rooms(arg, length=4, n=400_000)
  c.batch, c.method = 128, "lewm"
  c.args = dict(
      encoder=dict(width=96, depth=3, heads=3, patch=13, cls=True),
      projector=dict(widths=(512, 96), activation="gelu"),
      predictor=dict(history=3, depth=3, heads=3), weight=0.09, slices=256, **recipes.TWO_ROOMS)
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=5e-4, end=5e-7, warmup="1 %"),
                 weight_decay=dict(value=1e-3), clip=1.0)
  if arg == "tiny":
    return recipes.tiny_trajectories(
        c, encoder=dict(width=16, depth=1, heads=2, patch=13, cls=True),
        projector=dict(widths=(16, 16), activation="gelu"),
        predictor=dict(history=3, depth=1, heads=2, gate_std=0.1), slices=16)
  return c
