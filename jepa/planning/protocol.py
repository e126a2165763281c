"""The frozen protocol under which planning is measured, and the numbers that come of it.

A number is stored with its protocol (world and version, sampler of starts and goals, budget, seeds, planner),
and with its floors under the same one: a random policy, a straight line, the same planner with an untrained
model, and with the true simulator.
"""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa.planning import control
from jepa.worlds import World

VERSION = 1                         # of this file, agents.py and acting.py
RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE = ("random policy", "straight line", "untrained model",
                                                "trained model", "true simulator")
ROWS = (RANDOM, STRAIGHT, UNTRAINED, TRAINED, ORACLE)


class Protocol(NamedTuple):
  """Everything that a success rate depends on but the policy."""

  world: str
  world_version: int
  world_args: Mapping[str, Any]
  budget: int                       # steps of the world
  episodes: int
  seed: int                         # of layouts, starts and goals; episode i is the same for every policy
  sampler: str = "World.problem"
  success: str = "World.success, after any step; the policy does not see it"
  version: int = VERSION


def problem_keys(protocol: Protocol) -> jax.Array:
  """Keys [episodes] of World.problem: what every policy is asked."""
  return jax.random.split(jax.random.fold_in(jax.random.key(protocol.seed), 0), protocol.episodes)


def one_layout(world: World, protocol: Protocol) -> bool:
  """Whether the problems of a protocol differ in positions only, where the world says what a position is."""
  start, _ = jax.vmap(world.problem)(problem_keys(protocol))
  if "position" not in getattr(start, "_fields", ()):
    return True
  rest = start._replace(position=0.0)
  return all(bool((x == x[:1]).all()) for x in map(jnp.atleast_1d, jax.tree.leaves(rest)))


def scores(episode: control.Episode, seconds: float) -> dict[str, Any]:
  """The numbers of episodes that took `seconds`: success rate with its interval, steps to success."""
  done, steps = np.asarray(episode.done), np.asarray(episode.live).sum(1)
  low, high = wilson(int(done.sum()), len(done))
  return {"success": float(done.mean()), "successes": int(done.sum()), "episodes": len(done), "low": low,
          "high": high, "steps_to_success": float(steps[done].mean()) if done.any() else None,
          "seconds_per_episode": seconds / len(done)}


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
  """The 95 % confidence interval of a proportion (Wilson, 1927)."""
  p, n = successes / count, count
  centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """The numbers by row as fixed-width text."""
  head = ["", "success", "95 % interval", "steps", "s an episode"]
  body = [[name, f"{100 * r['success']:.1f} %", f"{100 * r['low']:.1f} to {100 * r['high']:.1f}",
           "-" if r["steps_to_success"] is None else f"{r['steps_to_success']:.0f}",
           f"{r['seconds_per_episode']:.3g}"] for name, r in rows.items()]
  widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
  line = lambda texts: "  ".join(t.ljust(w) if i == 0 else t.rjust(w)
                                 for i, (t, w) in enumerate(zip(texts, widths))).rstrip()
  return "\n".join([line(head), "-" * len(line(head)), *map(line, body)])
