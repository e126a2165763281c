r"""Times planning against the usual loop: python -m jepa.planning.bench [--config=configs/two_rooms_quick.py]
[--config.plan.args.width=4] [--planner=mppi --samples=64 --iterations=4] [--episodes=200] [--rounds=3]

Both plan with the networks of a config, untrained, in its Two Rooms, as far ahead and as often as the config
says, and as many steps for every episode. Ours plans for many episodes in one compiled call, with the
config's tree or with MPPI. The other is a loop as published code has it, in PyTorch (pip install -e
'.[parity]'): one episode after the other, MPPI over the same number of predictions, its samples in one batch,
its networks with our weights, with the number of threads that is fastest. Their energies are compared before
anything is timed. They take turns; the ratio is the median of rounds.
"""
import json
import os
import statistics
import sys
import time

from absl import flags
import jax
from ml_collections import config_flags
import numpy as np

from jepa import command, config as configs, logs, worlds
from jepa.methods import pldm
from jepa.planning import acting, agents
from jepa.planning.protocol import Protocol, problem_keys

_CONFIG = config_flags.DEFINE_config_file("config", "configs/two_rooms_quick.py",
                                          "Whose networks, world and plan.", lock_config=True)
_PLANNER = flags.DEFINE_enum("planner", "tree", ["tree", "mppi"], "Ours; the loop's is MPPI.")
_SAMPLES = flags.DEFINE_integer("samples", 0, "Of MPPI; 0: as many as a tree tries at once.", lower_bound=0)
_ITERATIONS = flags.DEFINE_integer("iterations", 1, "Of MPPI.", lower_bound=1)
_BUDGET = flags.DEFINE_integer("budget", 40, "Steps an episode; both take all of them.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 200, "Of ours, a round.", lower_bound=1)
_LOOP = flags.DEFINE_integer("loop_episodes", 20, "Of the loop, a round and number of threads.",
                             lower_bound=1)
_CHUNK = flags.DEFINE_integer("chunk", 50, "Of ours: episodes in one call.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.", lower_bound=1)

STD, TEMPERATURE = 1.5, 0.05


def torch_model(args, params):
  """(encode: uint8 [B H W C] -> [B D], predict: ([B D], [B A]) -> [B D]) of PLDM's `args` in PyTorch, with
  our weights.

  Raises:
    ImportError: says what to install.
    ValueError: networks that are not written here.
  """
  try:
    import torch
    import torch.nn.functional as F
  except ImportError as error:
    raise ImportError("the loop is PyTorch's: pip install -e '.[parity]'") from error
  enc = args["encoder"]
  pred = dict(norm=False, activation="gelu", gated=False, members=1) | dict(args["predictor"])
  if (pred["kind"] != "mlp" or pred["gated"] or pred["members"] > 1
      or not enc.get("patches") or enc.get("blocks")):
    raise ValueError("the loop has the networks of configs/two_rooms_quick.py and two_rooms.py only: an "
                     "encoder of patches without blocks, one MLP without gates")
  p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
  mean, std = (torch.tensor(args[k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
  dense = lambda q, x: F.linear(x, q["kernel"].T, q["bias"])
  activation = getattr(F, pred["activation"])

  def encode(image):
    q = p["encoder"]
    x = (torch.as_tensor(image).permute(0, 3, 1, 2).float() / 255 - mean) / std
    for i, stride in enumerate(enc["strides"]):
      stage = q[f"stage{i}"]
      layer = stage["conv0" if i else "patch"]
      kernel, bias = layer["kernel"], layer["bias"]
      if not i:
        kernel = kernel.reshape(stride, stride, x.shape[1], -1)
      x = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride=stride, padding=len(kernel) // 2 if i else 0)
      x = F.relu(F.group_norm(x, 4, stage["norm0"]["scale"], stage["norm0"]["bias"], eps=1e-6))
    x = dense(q["out"], x.permute(0, 2, 3, 1).flatten(1))
    return F.layer_norm(x, x.shape[-1:], q["norm"]["scale"], q["norm"]["bias"], eps=1e-6)

  def predict(z, a):
    q = p["predictor"]
    h = torch.cat([z, a], -1)
    for i in range(pred["depth"]):
      h = dense(q[f"hidden{i}"], h)
      if pred["norm"]:
        h = F.layer_norm(h, h.shape[-1:], q[f"norm{i}"]["scale"], q[f"norm{i}"]["bias"], eps=1e-6)
      h = activation(h)
    return z + dense(q["out"], h)

  return encode, predict


def torch_energy(predict, z, actions, goal):
  """[N] of actions [N H A] from z [1 D]: the distance to the goal [1 D], summed over imagined states."""
  total, z = 0.0, z.expand(len(actions), -1)
  for t in range(actions.shape[1]):
    z = predict(z, actions[:, t])
    total = total + (z - goal).square().mean(-1)
  return total


def torch_loop(encode, predict, step, render, states, goals, *, horizon: int, every: int, samples: int,
               limit: float) -> float:
  """Seconds of the episodes, one after the other."""
  import torch
  clock = time.perf_counter()
  with torch.inference_mode():
    for state, goal in zip(states, goals):
      target, mean = encode(render(goal)), torch.zeros(horizon, 2)
      for _ in range(-(-_BUDGET.value // every)):
        z = encode(render(state))
        for _ in range(_ITERATIONS.value):
          actions = mean + STD * torch.randn(samples, horizon, 2)
          length = actions.norm(dim=-1, keepdim=True)
          actions = actions * (limit / length.clamp(min=limit))
          energy = torch_energy(predict, z, actions, target)
          weight = torch.softmax(-(energy - energy.min()) / TEMPERATURE, 0)
          mean = (weight[:, None, None] * actions).sum(0)
        for a in mean[:every].numpy():
          state = step(state, a)
        mean = torch.cat([mean[every:], torch.zeros(every, 2)])
  return time.perf_counter() - clock


def compare(c) -> dict:
  """Episodes a minute of both, and their ratio by round."""
  room, data = c["data"]["args"]["args"], c["data"]["args"]
  world = worlds.make(data["name"], **room)._replace(success=lambda state, goal: state.position[0] < -1.0)
  args, plan = c["args"], c["plan"]
  horizon, every, own = plan["horizon"], plan["every"], dict(plan["args"])
  samples = _SAMPLES.value or own["width"] * own["branches"]
  if _PLANNER.value == "mppi":
    own = dict(samples=samples, iterations=_ITERATIONS.value, std=STD, temperature=TEMPERATURE)
  elif _SAMPLES.value or _ITERATIONS.value > 1:
    raise ValueError("--samples and --iterations are MPPI's: add --planner=mppi, or write "
                     "--config.plan.args.width=4")
  batch = {"image": np.zeros((2, 3, *world.image), np.uint8), "action": np.zeros((2, 2, 2), np.float32)}
  params, extra = pldm.make(**args, steps=1).init(jax.random.key(0), batch)
  names = "encoder", "predictor", "mean", "std"
  model = pldm.world_model(**{k: args[k] for k in names})
  parts = agents.of_model(model, params, extra, world, horizon=horizon)
  agent = agents.planned(world, *parts, name=_PLANNER.value, horizon=horizon, every=every,
                         dynamics=agents.steps_of_model(model, params, extra), **own)
  protocol = Protocol("two_rooms", world.version, room, _BUDGET.value, _EPISODES.value, 0)

  encode, predict = torch_model(args, params)
  step, draw = jax.jit(world.step), jax.jit(world.render)
  render = lambda state: np.array(draw(state))[None]
  pick = lambda states, i: jax.tree.map(lambda x: x[i], states)
  starts, goals = jax.vmap(world.problem)(problem_keys(protocol._replace(episodes=_LOOP.value)))
  starts, goals = ([pick(s, i) for i in range(_LOOP.value)] for s in (starts, goals))
  difference = check(parts, encode, predict, starts[0], goals[0], render, horizon)
  loop = lambda count: torch_loop(encode, predict, step, render, starts[:count], goals[:count],
                                  horizon=horizon, every=every, samples=samples, limit=world.actions.norm)
  loop(1)      # compiles the world
  acting.run(world, agent, protocol, chunk=_CHUNK.value)

  rounds, cores = [], acting.processors()
  for i in range(_ROUNDS.value):
    numbers, _ = acting.run(world, agent, protocol, chunk=_CHUNK.value)
    theirs, threads = min((with_threads(n, loop), n) for n in sorted({1, cores}))
    rounds.append((60 / numbers["seconds_per_episode"], 60 * _LOOP.value / theirs))
    ours, loops = rounds[-1]
    print(f"round {i + 1}/{_ROUNDS.value}: {ours:.1f} episodes a minute, the loop {loops:.1f} with {threads} "
          f"of {cores} threads, ratio {ours / loops:.2f}", file=sys.stderr, flush=True)
  ratios = [a / b for a, b in rounds]
  return {"episodes_per_minute": statistics.median(a for a, _ in rounds),
          "loop_episodes_per_minute": statistics.median(b for _, b in rounds),
          "ratio": statistics.median(ratios), "ratios": [round(r, 2) for r in ratios],
          "energies_differ_by": difference, "planner": _PLANNER.value,
          "plan": own | {"horizon": horizon, "every": every}, "loop_samples": samples,
          "plans_per_episode": -(-_BUDGET.value // every), "load": os.getloadavg()[0]}


def with_threads(count: int, loop) -> float:
  """Seconds of the loop's episodes with so many of PyTorch's threads."""
  import torch
  torch.set_num_threads(count)
  return loop(_LOOP.value)


def check(parts, encode, predict, start, goal, render, horizon: int) -> float:
  """The largest relative difference of both energies of some actions.

  Raises:
    RuntimeError: they are not the same network.
  """
  import torch
  energy, observe, aim = parts
  actions = 1.5 * jax.random.normal(jax.random.key(1), (8, horizon, 2))
  ours = np.asarray(jax.vmap(energy, (None, 0, None))(observe(start), actions, aim(goal)))
  z, target = encode(render(start)), encode(render(goal))
  theirs = torch_energy(predict, z, torch.tensor(np.asarray(actions)), target)
  difference = float(np.abs(ours / theirs.numpy() - 1).max())
  if difference > 1e-3:
    raise RuntimeError(f"energies of the two differ by {difference:.2g}: they are not the same network")
  return difference


def main() -> None:
  """The entry point; see the module's docstring."""
  found = compare(configs.plain(_CONFIG.value))
  print(f"{found['episodes_per_minute']:.1f} episodes a minute, the loop "
        f"{found['loop_episodes_per_minute']:.1f}: ratio {found['ratio']:.2f}")
  print(json.dumps({"facts": logs.facts(), "planning": found}))


if __name__ == "__main__":
  command.run(main)
