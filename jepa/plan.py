r"""Plans with a trained world model: python -m jepa.plan --workdir=runs/two_rooms [--planner=mppi] [--episodes=200]
[--horizon=50 --every=10 --set=samples=64 --set=iterations=2] [--rows=...]

Acts in the world that the run was trained on, or another (--world). Prints success rates with their 95 % intervals
beside floors under the same protocol, and writes workdir/planning/: results.json, episodes as GIFs, imagined
against real states.
"""
from jepa import heap

heap.keep()      # before JAX starts its backend

import ast
import json
from pathlib import Path
import sys

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from jepa import experiment, logs, worlds
from jepa.evals import planning as evals, planning_host as host, planning_report as pictures

_WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a trained world model.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; the newest by default.", lower_bound=0)
_WORLD = flags.DEFINE_string("world", "", f"One of {', '.join(worlds.WORLDS)}; pusht_gym or "
                             "gymnasium:ID, which step on the host; that of the run by default.")
_WORLD_SET = flags.DEFINE_multi_string("world_set", [], "NAME=VALUE, an argument of the world; may be repeated.")
_PLANNER = flags.DEFINE_enum("planner", "mppi", ["shooting", "cem", "icem", "mppi", "gradient"], "How to search.")
_SET = flags.DEFINE_multi_string("set", [], "NAME=VALUE, an argument of the planner; may be repeated.")
_HORIZON = flags.DEFINE_integer("horizon", 50, "Actions a plan.", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 10, "Actions executed before the next plan.", lower_bound=1)
_LAST = flags.DEFINE_integer("last", 0, "Imagined states that count, from the last; 0: all.", lower_bound=0)
_EPISODES = flags.DEFINE_integer("episodes", 200, "How many.", lower_bound=1)
_BUDGET = flags.DEFINE_integer("budget", 0, "Steps allowed; 0: those of the world's protocol.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of layouts, starts and goals.", lower_bound=0)
_ROWS = flags.DEFINE_list("rows", list(evals.ROWS), f"Which of {', '.join(evals.ROWS)}.")


def settings(texts: list[str], flag: str) -> dict:
  """NAME=VALUE as keyword arguments; a value that is no Python literal is a string.

  Raises:
    ValueError: no "=".
  """
  found = {}
  for text in texts:
    name, equal, value = text.partition("=")
    if not equal or not name:
      raise ValueError(f"--{flag}={text} is not NAME=VALUE, as in --{flag}=samples=64")
    try:
      found[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      found[name] = value
  return found


load_model = experiment.world_model


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  logs.quiet_libraries()
  try:
    _main()
  except (ValueError, FileNotFoundError, RuntimeError) as error:
    if logging.level_debug():
      raise
    print(f"\njepa: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)


def _main() -> None:
  if host.hosted(_WORLD.value):
    exp = experiment.build(experiment.saved_config(_WORKDIR.value))
    host.plan(exp, load_model(exp), _WORLD.value, workdir=_WORKDIR.value, checkpoint=_CHECKPOINT.value,
              args=settings(_WORLD_SET.value, "world_set"), planner=_PLANNER.value,
              settings=settings(_SET.value, "set"), horizon=_HORIZON.value, every=_EVERY.value, last=_LAST.value,
              episodes=_EPISODES.value, budget=_BUDGET.value, seed=_SEED.value,
              rows=_ROWS.value if flags.FLAGS["rows"].present else None)
    return
  if unknown := [r for r in _ROWS.value if r not in evals.ROWS]:
    raise ValueError(f"--rows: {unknown[0]!r} is unknown; choose among {', '.join(evals.ROWS)}")

  # 1. The run and its world.
  exp = experiment.build(experiment.saved_config(_WORKDIR.value))
  model = load_model(exp)
  data = exp.config["data"]
  trained_on = data["args"] if data["source"] == "world" else {}
  name = _WORLD.value or trained_on.get("name", "two_rooms")
  args = (trained_on.get("args", {}) if name == trained_on.get("name", "two_rooms") else {})
  args = dict(args) | settings(_WORLD_SET.value, "world_set")
  world = worlds.make(name, **args)
  if trained_on and tuple(world.image) != tuple(exp.train.shape[1:]):
    raise ValueError(f"{name} has images {world.image} and the model was trained on {exp.train.shape[1:]}; choose a "
                     "world of the same images")
  state = experiment.load(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value).state
  start = experiment.initial_state(exp)
  protocol = evals.Protocol(name, world.version, args, _BUDGET.value or world.budget, _EPISODES.value, _SEED.value)

  # 2. Who acts: floors and the trained model.
  horizon, last = _HORIZON.value, _LAST.value
  search = dict(name=_PLANNER.value, horizon=horizon, every=_EVERY.value, **settings(_SET.value, "set"))
  of_model = lambda s: evals.of_model(model, s.params, s.extra, world, horizon=horizon, last=last)
  agents = {evals.RANDOM: lambda: evals.random(world), evals.STRAIGHT: lambda: evals.straight(world),
            evals.UNTRAINED: lambda: evals.planned(world, *of_model(start), **search),
            evals.TRAINED: lambda: evals.planned(world, *of_model(state), **search),
            evals.ORACLE: lambda: evals.planned(world, *evals.of_world(world, horizon=horizon, last=last), **search)}

  # 3. Episodes.
  folder, rows, episode = Path(_WORKDIR.value) / "planning", {}, None
  folder.mkdir(parents=True, exist_ok=True)
  for row in [r for r in evals.ROWS if r in _ROWS.value]:
    rows[row], happened = evals.run(world, agents[row](), protocol, title=row)
    episode = happened if row == evals.TRAINED else episode
    logs.write_json(folder / "results.json", {
        "protocol": protocol._asdict(), "planner": search | {"last": last}, "rows": rows, "facts": logs.facts(),
        "method": exp.config["method"], "seed": exp.config["seed"], "step": int(state.step)})
  print(f"{name} version {world.version} {args or ''}: {protocol.episodes} episodes of at most {protocol.budget} "
        f"steps, seed {protocol.seed}; {_PLANNER.value} {json.dumps(search)}\n\n{evals.table(rows)}", flush=True)

  # 4. Pictures.
  if episode is not None:
    _draw_episodes(world, protocol, episode, folder)
  errors = {}
  for label, s in (("trained", state), ("untrained", start)):
    found = evals.imagined(world, model, s.params, s.extra, jax.random.key(protocol.seed), horizon=horizon)
    # relative to how far states lie apart, so that a collapsed model is not called exact
    errors[label] = found["imagined"] / max(1e-9, float(found["still"].mean()))
    errors[f"{label}, nothing moves"] = found["still"] / max(1e-9, float(found["still"].mean()))
  pictures.imagined(folder / "imagined.png", errors)
  print(f"pictures: {folder}")


def _draw_episodes(world: worlds.World, protocol: evals.Protocol, episode, folder: Path, count: int = 6) -> None:
  """The first episodes as GIFs."""
  keys = evals.problem_keys(protocol)
  for i in range(min(count, protocol.episodes)):
    states = jax.tree.map(lambda x: jnp.asarray(x[i]), episode.states)
    _, goal = world.problem(keys[i])
    frames = np.asarray(jax.vmap(world.render)(states))[:1 + int(episode.live[i].sum())]
    outcome = "reached" if episode.done[i] else "missed"
    pictures.gif(folder / f"episode{i}_{outcome}.gif", frames, np.asarray(world.render(goal)),
                 every=max(1, len(frames) // 60))


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  app.run(main)
