r"""Times planning against the usual loop: python -m jepa.evals.planning_bench [--samples=64] [--iterations=4]
[--horizon=40] [--every=10] [--episodes=50] [--rounds=3]

Both plan with MPPI over the same untrained PLDM, whose predictor has the sizes of configs/two_rooms.py, in the same
Two Rooms, as many steps for every episode. Ours plans for many episodes in one compiled call. The other is a loop as
published code has it, in PyTorch (pip install -e '.[parity]'): one episode after the other, its samples in one batch,
its networks with our weights. Their energies are compared before anything is timed. They take turns; the ratio is the
median of rounds.
"""
from jepa import heap

heap.keep()      # before JAX starts its backend, as jepa.plan does

import json
import os
import statistics
import sys
import time

from absl import app, flags
import jax
import numpy as np

from jepa import logs, worlds
from jepa.evals import planning as evals
from jepa.methods import pldm

_SAMPLES = flags.DEFINE_integer("samples", 64, "Of MPPI.", lower_bound=1)
_ITERATIONS = flags.DEFINE_integer("iterations", 4, "Of MPPI.", lower_bound=1)
_HORIZON = flags.DEFINE_integer("horizon", 40, "Actions a plan.", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 10, "Actions executed before the next plan.", lower_bound=1)
_BUDGET = flags.DEFINE_integer("budget", 40, "Steps an episode; both take all of them.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 50, "Of ours, a round.", lower_bound=1)
_LOOP = flags.DEFINE_integer("loop_episodes", 5, "Of the loop, a round.", lower_bound=1)
_CHUNK = flags.DEFINE_integer("chunk", 25, "Of ours: episodes in one call.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.", lower_bound=1)

ARGS = dict(encoder=dict(widths=(16, 32, 32), outputs=128, blocks=0, strides=(4, 2, 2)),
            predictor=dict(kind="mlp", width=256, depth=3, norm=True), mean=(0.0026, 0.0989), std=(0.0369, 0.2986))
STD, TEMPERATURE = 1.5, 0.05


def torch_model(params):
  """(encode: uint8 [B H W C] -> [B D], predict: ([B D], [B A]) -> [B D]) of `ARGS` in PyTorch, with our weights.

  Raises:
    ImportError: says what to install.
  """
  try:
    import torch
    import torch.nn.functional as F
  except ImportError as error:
    raise ImportError("the loop is PyTorch's: pip install -e '.[parity]'") from error
  p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
  mean, std = (torch.tensor(ARGS[k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
  dense = lambda q, x: F.linear(x, q["kernel"].T, q["bias"])

  def encode(image):
    q = p["encoder"]
    x = (torch.as_tensor(image).permute(0, 3, 1, 2).float() / 255 - mean) / std
    for i, stride in enumerate(ARGS["encoder"]["strides"]):
      conv, norm = q[f"stage{i}"]["conv0"], q[f"stage{i}"]["norm0"]
      kernel = conv["kernel"].permute(3, 2, 0, 1)
      x = F.conv2d(x, kernel, conv["bias"], stride=stride, padding=kernel.shape[-1] // 2)
      x = F.relu(F.group_norm(x, 4, norm["scale"], norm["bias"], eps=1e-6))
    x = dense(q["out"], x.permute(0, 2, 3, 1).flatten(1))
    return F.layer_norm(x, x.shape[-1:], q["norm"]["scale"], q["norm"]["bias"], eps=1e-6)

  def predict(z, a):
    q = p["predictor"]
    h = torch.cat([z, a], -1)
    for i in range(ARGS["predictor"]["depth"]):
      norm = q[f"norm{i}"]
      h = dense(q[f"hidden{i}"], h)
      h = F.gelu(F.layer_norm(h, h.shape[-1:], norm["scale"], norm["bias"], eps=1e-6))
    return z + dense(q["out"], h)

  return encode, predict


def torch_energy(predict, z, actions, goal):
  """[N] of actions [N H A] from z [1 D]: the distance to the goal [1 D], summed over imagined states."""
  total, z = 0.0, z.expand(len(actions), -1)
  for t in range(actions.shape[1]):
    z = predict(z, actions[:, t])
    total = total + (z - goal).square().mean(-1)
  return total


def torch_loop(encode, predict, world, step, render, states, goals, *, limit: float) -> float:
  """Seconds of the episodes, one after the other."""
  import torch
  horizon, width = _HORIZON.value, len(world.actions.low)
  clock = time.perf_counter()
  with torch.inference_mode():
    for state, goal in zip(states, goals):
      target, mean = encode(render(goal)), torch.zeros(horizon, width)
      for _ in range(-(-_BUDGET.value // _EVERY.value)):
        z = encode(render(state))
        for _ in range(_ITERATIONS.value):
          actions = mean + STD * torch.randn(_SAMPLES.value, horizon, width)
          length = actions.norm(dim=-1, keepdim=True)
          actions = actions * (limit / length.clamp(min=limit))
          energy = torch_energy(predict, z, actions, target)
          weight = torch.softmax(-(energy - energy.min()) / TEMPERATURE, 0)
          mean = (weight[:, None, None] * actions).sum(0)
        for a in mean[:_EVERY.value].numpy():
          state = step(state, a)
        mean = torch.cat([mean[_EVERY.value:], torch.zeros(_EVERY.value, width)])
  return time.perf_counter() - clock


def compare() -> dict:
  """Episodes a minute of both, and their ratio by round."""
  world = worlds.make("two_rooms", random=True)._replace(success=lambda state, goal: state.position[0] < -1.0)
  method, model = pldm.make(**ARGS, steps=1), pldm.world_model(**ARGS)
  batch = {"image": np.zeros((2, 3, *world.image), np.uint8), "action": np.zeros((2, 2, 2), np.float32)}
  params, extra = method.init(jax.random.key(0), batch)
  parts = evals.of_model(model, params, extra, world, horizon=_HORIZON.value)
  agent = evals.planned(world, *parts, name="mppi", horizon=_HORIZON.value, every=_EVERY.value,
                        samples=_SAMPLES.value, iterations=_ITERATIONS.value, std=STD, temperature=TEMPERATURE)
  protocol = evals.Protocol("two_rooms", world.version, {"random": True}, _BUDGET.value, _EPISODES.value, 0)

  encode, predict = torch_model(params)
  step, draw = jax.jit(world.step), jax.jit(world.render)
  render = lambda state: np.array(draw(state))[None]
  pick = lambda states, i: jax.tree.map(lambda x: x[i], states)
  starts, goals = jax.vmap(world.problem)(evals.problem_keys(protocol._replace(episodes=_LOOP.value)))
  starts, goals = ([pick(s, i) for i in range(_LOOP.value)] for s in (starts, goals))
  difference = check(parts, encode, predict, starts[0], goals[0], render)

  rounds = []
  for i in range(_ROUNDS.value):
    numbers, _ = evals.run(world, agent, protocol, chunk=_CHUNK.value)
    loop = torch_loop(encode, predict, world, step, render, starts, goals, limit=world.actions.norm)
    rounds.append((60 / numbers["seconds_per_episode"], 60 * _LOOP.value / loop))
    print(f"round {i + 1}/{_ROUNDS.value}: {rounds[-1][0]:.1f} episodes a minute, the loop {rounds[-1][1]:.1f}, "
          f"ratio {rounds[-1][0] / rounds[-1][1]:.2f}", file=sys.stderr, flush=True)
  ratios = [a / b for a, b in rounds]
  return {"episodes_per_minute": statistics.median(a for a, _ in rounds),
          "loop_episodes_per_minute": statistics.median(b for _, b in rounds), "ratio": statistics.median(ratios),
          "ratios": [round(r, 2) for r in ratios], "energies_differ_by": difference,
          "plans_per_episode": -(-_BUDGET.value // _EVERY.value), "samples": _SAMPLES.value,
          "iterations": _ITERATIONS.value, "horizon": _HORIZON.value, "load": os.getloadavg()[0]}


def check(parts, encode, predict, start, goal, render) -> float:
  """The largest relative difference of both energies of some actions.

  Raises:
    RuntimeError: they are not the same network.
  """
  import torch
  energy, observe, aim = parts
  actions = 1.5 * jax.random.normal(jax.random.key(1), (8, _HORIZON.value, 2))
  ours = np.asarray(jax.vmap(energy, (None, 0, None))(observe(start), actions, aim(goal)))
  theirs = torch_energy(predict, encode(render(start)), torch.tensor(np.asarray(actions)), encode(render(goal)))
  difference = float(np.abs(ours / theirs.numpy() - 1).max())
  if difference > 1e-3:
    raise RuntimeError(f"energies of the two differ by {difference:.2g}: they are not the same network")
  return difference


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  logs.quiet_libraries()
  try:
    found = compare()
  except ImportError as error:
    print(f"\njepa: {error}", file=sys.stderr)
    sys.exit(1)
  print(f"{found['episodes_per_minute']:.1f} episodes a minute, the loop {found['loop_episodes_per_minute']:.1f}: "
        f"ratio {found['ratio']:.2f}")
  print(json.dumps({"facts": logs.facts(), "planning": found}))


if __name__ == "__main__":
  app.run(main)
