r"""Plans with a trained world model: python -m jepa.plan --workdir=runs/two_rooms [--episodes=200]
[--planner=mppi --horizon=50 --every=10 --set=samples=64 --set=iterations=2] [--rows=...]

Acts in the world that the run was trained on, or another (--world). Prints success rates with their 95 % intervals
beside floors under the same protocol, and writes workdir/planning/: results.json, episodes as GIFs, imagined
against real states (imagined.png, rollouts.png), distances and energies (landscape_*.png). Ctrl-C keeps the rows so
far.

  --subgoals=memory       goes from one remembered latent to the next. The trained model's memory begins with that of
                          the checkpoint (config.memory, see jepa/experiment.py), grows with what episodes see, and
                          stays in workdir/planning/memory for the next call
  --sweep=samples=32,64   instead: the trained model at all combinations of settings; sweep.json, sweep.png
"""
from jepa import heap

heap.keep()      # before JAX starts its backend

import ast
import inspect
import itertools
import json
from pathlib import Path
import sys

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from jepa import checkpoint, config as configs, experiment, logs, worlds
from jepa.evals import planning as evals, planning_host as host, planning_report as pictures
from jepa.planning import NAMES

_WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a trained world model.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; the newest by default.", lower_bound=0)
_WORLD = flags.DEFINE_string("world", "", f"One of {', '.join(worlds.WORLDS)}; pusht_gym or "
                             "gymnasium:ID, which step on the host; that of the run by default.")
_WORLD_SET = flags.DEFINE_multi_string("world_set", [], "NAME=VALUE, an argument of the world; may be repeated.")
_PLANNER = flags.DEFINE_enum("planner", None, NAMES, "How to search: jepa/planning/<name>.py; this and the next four "
                             "are by default what the run's config.plan says.")
_SET = flags.DEFINE_multi_string("set", [], "NAME=VALUE, an argument of the planner, such as samples=64 or batch=16 "
                                 "(samples at a time, where memory is short); may be repeated.")
_SUBGOALS = flags.DEFINE_enum("subgoals", "none", ["none", "memory", "search"], "Two levels: towards the next latent "
                              "of the cheapest path through a memory, or of a searched sequence of them. Needs a "
                              "world of one layout, such as two_rooms or --world=maze --world_set=number=0.")
_SUBGOALS_SET = flags.DEFINE_multi_string("subgoals_set", [], "NAME=VALUE, an argument of evals.planning.level or "
                                          "proposer, such as capacity=1024 or longest=2.5; may be repeated.")
_SWEEP = flags.DEFINE_multi_string("sweep", [], "NAME=VALUE,VALUE,...: of horizon, every, last or an argument of the "
                                   "planner; may be repeated, for all combinations.")
_HORIZON = flags.DEFINE_integer("horizon", None, "Actions a plan.", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", None, "Actions executed before the next plan.", lower_bound=1)
_LAST = flags.DEFINE_integer("last", None, "Imagined states that count, from the last; 0: all.", lower_bound=0)
_EPISODES = flags.DEFINE_integer("episodes", 200, "How many.", lower_bound=1)
_CHUNK = flags.DEFINE_integer("chunk", 25, "Episodes at a time; a memory grows between them.", lower_bound=1)
_BUDGET = flags.DEFINE_integer("budget", 0, "Steps allowed; 0: those of the world's protocol.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of layouts, starts and goals.", lower_bound=0)
_ROWS = flags.DEFINE_list("rows", list(evals.ROWS), f"Which of {', '.join(evals.ROWS)}.")
_LANDSCAPES = flags.DEFINE_integer("landscapes", 3, "Problems whose distances and energies are drawn.", lower_bound=0)


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


def search_of(exp: experiment.Experiment) -> dict:
  """Keyword arguments of evals.planning.planned, and `last`: what the flags say, else the run's config.plan. Another
  planner than there takes none of its arguments."""
  c = configs.base().plan.to_dict() | dict(exp.config.get("plan", {}))      # older workdirs have none
  given = lambda flag, name: c[name] if flag.value is None else flag.value
  own = c["args"] if given(_PLANNER, "planner") == c["planner"] else {}
  return dict(name=given(_PLANNER, "planner"), horizon=given(_HORIZON, "horizon"), every=given(_EVERY, "every"),
              last=given(_LAST, "last"), **(dict(own) | settings(_SET.value, "set")))


def grid(texts: list[str]) -> list[dict]:
  """All combinations of NAME=VALUE,VALUE,... as keyword arguments.

  Raises:
    ValueError: no "=", a name twice.
  """
  axes = {}
  for text in texts:
    name, values = next(iter(settings([text], "sweep").items()))
    if name in axes:
      raise ValueError(f"--sweep={name} is given twice; write all of its values in one, as in --sweep={name}=1,2")
    if isinstance(values, str):       # a list of names
      values = tuple(values.split(","))
    axes[name] = values if isinstance(values, tuple) else (values,)
  return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  logs.quiet_libraries()
  try:
    _main()
  except KeyboardInterrupt:
    print(f"\njepa: interrupted; what is finished is in {Path(_WORKDIR.value) / 'planning'}", file=sys.stderr)
    sys.exit(130)
  except (ValueError, FileNotFoundError, RuntimeError) as error:
    if logging.level_debug():
      raise
    print(f"\njepa: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)


def _main() -> None:
  if host.hosted(_WORLD.value):
    exp = experiment.build(experiment.saved_config(_WORKDIR.value))
    host.plan(exp, load_model(exp), _WORLD.value, workdir=_WORKDIR.value, checkpoint=_CHECKPOINT.value,
              args=settings(_WORLD_SET.value, "world_set"), search=search_of(exp), episodes=_EPISODES.value,
              budget=_BUDGET.value, seed=_SEED.value, rows=_ROWS.value if flags.FLAGS["rows"].present else None)
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
  # off the mesh, where every device would do all of the planning
  alone = lambda state: jax.device_get(state._replace(opt=(), key=0))
  state = alone(experiment.load(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value).state)
  start = alone(experiment.initial_state(exp))
  protocol = evals.Protocol(name, world.version, args, _BUDGET.value or world.budget, _EPISODES.value, _SEED.value)

  # 2. Who acts: floors and the trained model, or only the latter in many ways.
  folder, saved = Path(_WORKDIR.value) / "planning", None
  folder.mkdir(parents=True, exist_ok=True)
  search = search_of(exp)
  two = _subgoals(world, protocol)
  about = {"world": name, "version": world.version, "args": json.loads(json.dumps(args)), "step": int(state.step)}
  same = trained_on and {"name": name, "args": args} == {k: trained_on.get(k) for k in ("name", "args")}
  facts = {"protocol": protocol._asdict(), "subgoals": two, "facts": logs.facts(), "method": exp.config["method"],
           "seed": exp.config["seed"], "step": int(state.step)}
  if _SWEEP.value:
    _sweep(world, model, state, protocol, search, two, folder, facts)
    return
  if two:
    saved = _known(folder / "memory", about, state.extra if same else {})

  # 3. Episodes.
  rows, episode = {}, None
  for row in [r for r in evals.ROWS if r in _ROWS.value]:
    print(f"{row} ...", file=sys.stderr, flush=True)
    if row in (evals.RANDOM, evals.STRAIGHT):
      agent = evals.random(world) if row == evals.RANDOM else evals.straight(world)
      rows[row], _ = evals.run(world, agent, protocol, chunk=_CHUNK.value, title=row)
    else:
      weights = {evals.UNTRAINED: start, evals.TRAINED: state, evals.ORACLE: None}[row]
      found = _act(world, model, weights, protocol, search, two, row, saved if row == evals.TRAINED else None)
      rows[row] = found[0]
      if row == evals.TRAINED:
        episode = found[1]
        if two:
          checkpoint.write_tree(folder / "memory", found[2]._asdict(), about)
    logs.write_json(folder / "results.json", facts | {"planner": search, "rows": rows})
  print(f"{name} version {world.version} {args or ''}: {protocol.episodes} episodes of at most {protocol.budget} "
        f"steps, seed {protocol.seed}; {json.dumps(search)} {json.dumps(two) if two else ''}\n\n{evals.table(rows)}",
        flush=True)

  # 4. Pictures.
  if episode is not None:
    _draw_episodes(world, protocol, episode, folder)
  _draw_models(world, model, {"trained": state, "untrained": start}, protocol, search, folder)
  print(f"pictures: {folder}")


def _subgoals(world: worlds.World, protocol: evals.Protocol) -> dict:
  """Keyword arguments of evals.level that the flags give; {} for one level."""
  chosen = settings(_SUBGOALS_SET.value, "subgoals_set")
  if _SUBGOALS.value == "none":
    if chosen:
      raise ValueError("--subgoals_set without --subgoals: add --subgoals=memory or --subgoals=search")
    return {}
  options = [k for f in (evals.level, evals.proposer) for k, p in inspect.signature(f).parameters.items()
             if p.default is not p.empty and k != "known"]
  if unknown := [k for k in chosen if k not in options]:
    raise ValueError(f"--subgoals_set={unknown[0]} is unknown; choose among {', '.join(options)}")
  if not evals.one_layout(world, protocol):
    raise ValueError(f"--subgoals={_SUBGOALS.value} needs one layout, since a memory of one says nothing of another, "
                     f"and {world.name} draws them: fix it, as in --world_set=random=False (two_rooms) or "
                     "--world_set=number=0 (maze)")
  return dict(kind=_SUBGOALS.value, **chosen)


def _parts(world: worlds.World, model, state, horizon: int, last: int):
  """((energy, observe, aim), steps, latents) of a model's state, or with None of the true simulator."""
  if state is None:
    return (evals.of_world(world, horizon=horizon, last=last), evals.steps_of_world(world),
            evals.latents_of_world(world))
  return (evals.of_model(model, state.params, state.extra, world, horizon=horizon, last=last),
          evals.steps_of_model(model, state.params, state.extra),
          evals.latents_of_model(model, state.params, state.extra, world))


def _act(world: worlds.World, model, state, protocol: evals.Protocol, search: dict, two: dict, title: str,
         known=None):
  """(numbers, episodes, memory) of a planner, with one level or two. `known`: latents that a memory begins with."""
  search = dict(search)
  parts, steps, latents = _parts(world, model, state, search["horizon"], search.pop("last"))
  shown = dict(chunk=_CHUNK.value, title=title)
  if not two:
    return *evals.run(world, evals.planned(world, *parts, dynamics=steps, **search), protocol, **shown), None
  width = jax.eval_shape(lambda s: latents.of_context(parts[1](s)), world.problem(jax.random.key(0))[0]).shape
  if known is not None and known.shape[1:] != width:
    print(f"the memory's {known.shape[1]} numbers are no latent state of this model, which has {width[0]}; it begins "
          "with what the training behaviour reaches instead", file=sys.stderr)
    known = None
  level = evals.level(world, parts[1], latents, jax.random.fold_in(jax.random.key(protocol.seed), 2), known,
                      horizon=search["horizon"], every=search["every"], **two)
  agent = lambda memory: evals.planned(world, *parts, dynamics=steps, proposer=level.propose(memory), **search)
  numbers, episode, memory = evals.learning(world, agent, level.memory, protocol, remember=level.remember, **shown)
  return numbers | {"remembered": [int(level.memory.count), int(memory.count)]}, episode, memory


def _known(folder: Path, about: dict, extra) -> jax.Array | None:
  """Latents [N D] of the memory that an earlier call left for this checkpoint and world, or of the checkpoint."""
  found, origin = checkpoint.read_tree(folder), f"of {folder}"
  if found and found[1] != about:
    print(f"{folder} is of another step or world and is left out", file=sys.stderr)
    found = None
  memory = found[0] if found else None
  if memory is None and "memory" in extra:
    memory, origin = extra["memory"]._asdict(), "of the checkpoint"
  if memory is None:
    return None
  latents = memory["latents"][:int(memory["count"])]
  print(f"memory: {len(latents)} latents {origin}", file=sys.stderr)
  return jnp.asarray(latents) if len(latents) else None


def _sweep(world: worlds.World, model, state, protocol: evals.Protocol, search: dict, two: dict, folder: Path,
           facts: dict) -> None:
  """The trained model at every setting: sweep.json and sweep.png."""
  points, ways = [], grid(_SWEEP.value)
  for i, way in enumerate(ways):
    title = " ".join(f"{k}={v}" for k, v in way.items())
    print(f"{i + 1} of {len(ways)}: {title} ...", file=sys.stderr, flush=True)
    points.append({"settings": way} | _act(world, model, state, protocol, search | way, two, title)[0])
    logs.write_json(folder / "sweep.json", facts | {"planner": search, "points": points})
    pictures.tradeoff(folder / "sweep.png", points)
  named = {" ".join(f"{k}={v}" for k, v in p["settings"].items()): p for p in points}
  print(f"{protocol.world}: {evals.TRAINED}, {protocol.episodes} episodes of at most {protocol.budget} steps, seed "
        f"{protocol.seed}; {json.dumps(search)}\n\n{evals.table(named)}\n\n{folder / 'sweep.png'}", flush=True)


def _draw_models(world: worlds.World, model, states: dict, protocol: evals.Protocol, search: dict, folder: Path,
                 count: int = 6) -> None:
  """What models imagine, and where they see a goal: imagined.png, rollouts.png, landscape_*.png."""
  horizon, last = search["horizon"], search["last"]
  keys = jax.random.split(jax.random.key(protocol.seed), 3)
  starts, goals = jax.vmap(world.problem)(evals.problem_keys(protocol))
  first = lambda states, n: jax.tree.map(lambda x: x[:n], states)
  few, starts, goals = first(starts, count), first(starts, _LANDSCAPES.value), first(goals, _LANDSCAPES.value)
  flat = "position" in getattr(few, "_fields", ())       # positions are those of the picture
  drawn = len(world.actions.low) > 1 and _LANDSCAPES.value > 0

  def seen(parts, _, latents):
    """Distances and energies."""
    energy, observe, aim = parts
    found = {"held": evals.held(world, energy, observe, aim, starts, goals, horizon=horizon)}
    return found | ({"heat": evals.landscape(world, observe, aim, latents, starts, goals)} if flat else {})

  @jax.jit      # all of it at once, for both models
  def of_model(state):
    parts = _parts(world, model, state, horizon, last)
    weights = model, state.params, state.extra
    return {"error": evals.imagined(world, *weights, keys[0], horizon=horizon),
            "probe": evals.placings(world, parts[0][1], parts[2], keys[1]),
            "paths": evals.paths(world, *weights, few, keys[2], horizon=horizon)} | (seen(*parts) if drawn else {})

  found = {label: jax.device_get(of_model(state)) for label, state in states.items()}

  errors, imagined, shares = {}, {}, []
  for label, f in found.items():
    # relative to how far states lie apart, so that a collapsed model is not called exact
    scale = max(1e-9, float(f["error"]["still"].mean()))
    errors |= {label: f["error"]["imagined"] / scale, f"{label}, nothing moves": f["error"]["still"] / scale}
    read, share = evals.probe(*f["probe"])
    imagined[label] = read(f["paths"][1])
    shares.append(f"{share:.2f} {label}")
  pictures.imagined(folder / "imagined.png", errors)
  ways = next(iter(found.values()))["paths"][0]
  render = lambda states: np.asarray(jax.vmap(world.render)(states))
  pictures.rollouts(folder / "rollouts.png", render(few) if flat else [None] * len(ways), ways, imagined,
                    f"positions read from latents by a ridge probe, R2 {', '.join(shares)}")

  if not drawn:
    return
  if not flat:
    print(f"landscapes of {world.name} have no distances: its state is more than a position and a layout")
  found["true simulator"] = jax.device_get(jax.jit(lambda: seen(*_parts(world, model, None, horizon, last)))())
  place = lambda states: np.asarray(jax.vmap(world.position)(states))
  for i, (image, start, goal) in enumerate(zip(render(starts), place(starts), place(goals))):
    heat, held = ({label: f[k][i] for label, f in found.items() if k in f} for k in ("heat", "held"))
    pictures.landscape(folder / f"landscape_{i}.png", image, heat, held, start, goal, world.actions.low,
                       world.actions.high)


def _draw_episodes(world: worlds.World, protocol: evals.Protocol, episode, folder: Path, count: int = 6) -> None:
  """The first episodes as GIFs."""
  keys = evals.problem_keys(protocol)
  for i in range(min(count, protocol.episodes)):
    states = jax.tree.map(lambda x: jnp.asarray(x[i]), episode.states)
    _, goal = world.problem(keys[i])
    frames = np.asarray(jax.vmap(world.render)(states))[:1 + int(episode.live[i].sum())]
    pictures.episode(folder, i, episode.done[i], frames, np.asarray(world.render(goal)))


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  app.run(main)
