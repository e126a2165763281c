r"""V-JEPA 2-AC (arXiv 2506.09985) in Two Rooms, trajectories generated inside the step.

python -m jepa.main --config=configs/vjepa2_ac_two_rooms.py --workdir=runs/vjepa2_ac_two_rooms \
    [--config.init.encoder=DIR]

Argument: random (default; wall and door of every layout drawn), fixed, tiny. Two CPU cores: not run here.
The encoder is frozen: that of another run of a ViT on the same pictures with the same `encoder`, `mean` and `std`,
by --config.init.encoder=DIR, as DIR of configs/lewm_two_rooms.py; without, a random one, the floor.
"""
from jepa import config

ARGUMENTS = ("random", "fixed", "tiny")


def get_config(arg=None):
  arg = arg or "random"
  if arg not in ARGUMENTS:
    raise ValueError(f"argument {arg!r}: write one of {', '.join(ARGUMENTS)}")
  c = config.base()
  c.total, c.batch, c.method = "6000 steps", 64, "vjepa2_ac"
  c.data = dict(source="world", args=dict(name="two_rooms", args=dict(random=arg != "fixed"), length=5, n=300000),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(width=96, depth=3, heads=3, patch=13, cls=True),
      predictor=dict(width=128, depth=3, heads=4), rollout=2, history=4,
      mean=(0.0026, 0.0989), std=(0.0369, 0.2986),
      position_mean=(31.6, 32.1), position_std=(16.1, 16.1))
  c.optim = dict(name="adamw", lr=dict(kind="cosine", value=1e-3, end=1e-6, warmup="2 %"),
                 weight_decay=dict(value=0.04), clip=0.0)
  c.eval.online, c.eval.final, c.eval.floors, c.eval.report = (), ("collapse",), False, False
  c.log.every = "50 steps"
  if arg == "tiny":
    data, evaluation = c.data, c.eval
    c = config.tiny(c, encoder=dict(width=16, depth=1, heads=2, patch=13, cls=True),
                    predictor=dict(width=16, depth=1, heads=2), history=3)
    c.data, c.eval = data, evaluation
    c.data.args.update(length=4, n=64, test=16)
    c.eval.batch = 16
  return c
