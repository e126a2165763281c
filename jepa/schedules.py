"""Schedules: a number as a function of the step, for learning rate, weight decay, EMA momentum
and loss weights."""
from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]
KINDS = ("constant", "linear", "cosine", "wsd")


def make(*, value: float, steps: int, kind: str = "constant", start: float = 0.0, end: float = 0.0,
         warmup: int = 0, decay: int = 0, horizon: float = 1.0) -> Schedule:
  """A schedule in f32.

  Rises linearly from `start` to `value` in `warmup` steps. Then, by `kind`: "constant" stays; "linear" and
  "cosine" go to `end` at step `steps`; "wsd" (warm-up, stable, decay) stays and goes linearly to `end` in the
  last `decay` steps.

  Args:
    steps: length of the run.
    horizon: the schedule is computed for `horizon * steps` steps and cut at `steps`
      (I-JEPA's and V-JEPA's `ipe_scale`).

  Raises:
    ValueError: an unknown kind, or a warm-up (plus decay) longer than the run.
  """
  if kind not in KINDS:
    raise ValueError(f"schedule kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
  total = max(1, round(horizon * steps))
  decay = decay if kind == "wsd" else 0
  if warmup + decay > total:
    raise ValueError(
        f"schedule: warmup {warmup} + decay {decay} steps is longer than the run of {total} steps; "
        "shorten them or lengthen config.total")

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rise = start + (value - start) * step / max(1, warmup)
    if kind == "constant":
      after = jnp.full_like(step, value)
    elif kind == "wsd":
      done = jnp.clip((step - (total - decay)) / max(1, decay), 0.0, 1.0)
      after = value + (end - value) * done
    else:
      done = jnp.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
      done = (1 - jnp.cos(jnp.pi * done)) / 2 if kind == "cosine" else done
      after = value + (end - value) * done
    return jnp.where(step < warmup, rise, after)

  return schedule
