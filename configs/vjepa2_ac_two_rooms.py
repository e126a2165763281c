r"""V-JEPA 2-AC (arXiv 2506.09985) in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/vjepa2_ac_two_rooms.py --workdir=runs/vjepa2_ac_two_rooms \
    [--config.init.encoder=DIR]

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
The encoder is frozen: that of another run of a ViT on the same pictures with the same `encoder`, `mean` and
`std`, by --config.init.encoder=DIR, as DIR of configs/lewm_two_rooms.py; without, a random one, the floor.
"""
from jepa import recipes


def get_config(arg=None):
  c, arg = recipes.two_rooms(arg, length=5, n=300_000)
  c.method = "vjepa2_ac"
  c.args = dict(
      encoder=dict(width=96, depth=3, heads=3, patch=13, cls=True),
      predictor=dict(width=128, depth=3, heads=4), rollout=2, history=4,
      **recipes.TWO_ROOMS, position_mean=(31.6, 32.1), position_std=(16.1, 16.1))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-6, warmup="2 %"),
                 weight_decay=dict(value=0.04), clip=0.0)
  if arg == "tiny":
    return recipes.tiny_trajectories(
        c, encoder=dict(width=16, depth=1, heads=2, patch=13, cls=True),
        predictor=dict(width=16, depth=1, heads=2), history=3)
  return c
