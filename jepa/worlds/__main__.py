"""Times worlds: python -m jepa.worlds [--worlds=two_rooms,maze] [--batch=256] [--steps=32] [--rounds=5]

Prints a table and one JSON line: frames per second of a step and a picture of each of `batch` worlds at once,
every picture written to memory, the median and the range over the rounds; and the load of the machine, since
what else runs on it counts.
"""
import json
import os
import statistics
import time

from absl import app, flags
import jax

from jepa import config, logs, worlds

_WORLDS = flags.DEFINE_list("worlds", worlds.names(), f"Which of {', '.join(worlds.names())}, or of yours.")
_BATCH = flags.DEFINE_integer("batch", 256, "Worlds at once.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 32, "Steps a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds, after one to warm up.", lower_bound=1)


def speed(name: str, *, batch: int, steps: int, rounds: int) -> dict:
  """Frames per second of the world `name`."""
  world = worlds.make(name)

  @jax.jit
  def play(states, actions):
    def one(states, actions):
      states = jax.vmap(world.step)(states, actions)
      return states, jax.vmap(world.render)(states)
    return jax.lax.scan(one, states, actions)

  k_reset, k_actions = jax.random.split(jax.random.key(0))
  states = jax.jit(jax.vmap(world.reset))(jax.random.split(k_reset, batch))
  low, high = world.actions.low, world.actions.high
  actions = low + (high - low) * jax.random.uniform(k_actions, (steps, batch, len(low)))
  jax.block_until_ready(play(states, actions))
  speeds = []
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(play(states, actions))
    speeds.append(batch * steps / (time.perf_counter() - start))
  return {"world": name, "version": world.version, "image": "x".join(map(str, world.image)),
          "frames_per_s": statistics.median(speeds), "lowest": min(speeds), "highest": max(speeds)}


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  for name in _WORLDS.value:
    try:
      config.module(name, worlds.__name__)
    except ValueError as error:
      raise app.UsageError(str(error)) from error
  print(f"{'world':<10} {'image':>8} {'frames/s':>10} {'lowest':>10} {'highest':>10}")
  rows = []
  for name in _WORLDS.value:
    rows.append(row := speed(name, batch=_BATCH.value, steps=_STEPS.value, rounds=_ROUNDS.value))
    print(f"{name:<10} {row['image']:>8} {row['frames_per_s']:>10,.0f} {row['lowest']:>10,.0f} "
          f"{row['highest']:>10,.0f}", flush=True)
  load = os.getloadavg()[0]
  print(f"batch {_BATCH.value}, {_STEPS.value} steps, {jax.default_backend()}, {os.cpu_count()} cores, "
        f"load {load:.1f} in the last minute")
  print(json.dumps({"facts": logs.facts(), "load": load, "batch": _BATCH.value, "rows": rows}))


if __name__ == "__main__":
  app.run(main)
