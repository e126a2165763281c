r"""Plans with a trained world model: python -m jepa.plan --workdir=runs/two_rooms [--episodes=200]
[--planner=mppi --horizon=50 --every=10 --set=samples=64 --set=iterations=2] [--rows=...]

Acts in the world that the run was trained on, or another (--world). Prints success rates with their 95 %
intervals beside floors under the same protocol, and writes workdir/planning/: results.json, episodes as GIFs,
imagined against real states (imagined.png, rollouts.png), distances and energies (landscape_*.png). Ctrl-C
keeps the rows so far.

  --subgoals=memory       goes from one remembered latent to the next. The trained model's memory begins with
                          that of the checkpoint (config.memory, see jepa/wrappers.py), grows with what
                          episodes see, and stays in workdir/planning/memory for the next call
  --sweep=samples=32,64   instead: the trained model at all combinations of settings; sweep.json, sweep.png
"""
from collections.abc import Mapping
import inspect
import itertools
import json
from pathlib import Path
import sys
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp

from jepa import checkpoint, command, config as configs, experiment, initial, logs, planning, worlds
from jepa.experiment import Experiment
from jepa.planning import acting, agents, hosts, levels
from jepa.planning.protocol import (ORACLE, RANDOM, ROWS, STRAIGHT, TRAINED, UNTRAINED, Protocol, one_layout,
                                    table)
from jepa.reports import planning as pictures
from jepa.types import WorldModel
from jepa.worlds import World

_WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a trained world model.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; the newest by default.", lower_bound=0)
_WORLD = flags.DEFINE_string(
    "world", "", f"One of {', '.join(worlds.names())}; pusht_gym or gymnasium:ID, which step on the host; a "
    "file of your own by its dotted name; that of the run by default.")
_WORLD_SET = flags.DEFINE_multi_string(
    "world_set", [], "NAME=VALUE, an argument of the world; may be repeated.")
_PLANNER = flags.DEFINE_string(
    "planner", None, f"How to search: one of {', '.join(configs.names(planning.__name__))}, or a file of "
    "your own by its dotted name; this and the next four are by default what the run's config.plan says.")
_SET = flags.DEFINE_multi_string(
    "set", [], "NAME=VALUE, an argument of the planner, such as samples=64 or batch=16 (samples at a time, "
    "where memory is short); may be repeated.")
_SUBGOALS = flags.DEFINE_enum(
    "subgoals", "none", ["none", "memory", "search"], "Two levels: towards the next latent of the cheapest "
    "path through a memory, or of a searched sequence of them. Needs a world of one layout, such as "
    "two_rooms or --world=maze --world_set=number=0.")
_SUBGOALS_SET = flags.DEFINE_multi_string(
    "subgoals_set", [], "NAME=VALUE, an argument of planning.levels.level or proposer, such as capacity=1024 "
    "or longest=2.5; may be repeated.")
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "NAME=VALUE,VALUE,...: of horizon, every, last or an argument of the planner; may be "
    "repeated, for all combinations.")
_HORIZON = flags.DEFINE_integer("horizon", None, "Actions a plan.", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", None, "Actions executed before the next plan.", lower_bound=1)
_LAST = flags.DEFINE_integer(
    "last", None, "Imagined states that count, from the last; 0: all.", lower_bound=0)
_EPISODES = flags.DEFINE_integer("episodes", 200, "How many.", lower_bound=1)
_CHUNK = flags.DEFINE_integer("chunk", 25, "Episodes at a time; a memory grows between them.", lower_bound=1)
_BUDGET = flags.DEFINE_integer(
    "budget", 0, "Steps allowed; 0: those of the world's protocol.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of layouts, starts and goals.", lower_bound=0)
_ROWS = flags.DEFINE_list("rows", list(ROWS), f"Which of {', '.join(ROWS)}.")
_LANDSCAPES = flags.DEFINE_integer(
    "landscapes", 3, "Problems whose distances and energies are drawn.", lower_bound=0)


def load_model(exp: Experiment) -> WorldModel:
  """The world model of a run.

  Raises:
    ValueError: its method has none.
  """
  if exp.world is None:
    raise ValueError(f"{exp.config['method']} predicts no next state from an action: it has no world_model "
                     "in its file; train one that has, such as configs/two_rooms.py")
  return exp.world


def search_of(c: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of agents.planned, and `last`: what the flags say, else the plan of a run's config `c`.
  Another planner than there takes none of its arguments.

  Raises:
    ValueError: no such planner.
  """
  c = configs.base().plan.to_dict() | dict(c.get("plan", {}))      # older workdirs have none
  given = lambda flag, name: c[name] if flag.value is None else flag.value
  name = given(_PLANNER, "planner")
  configs.module(name, planning.__name__)
  own = c["args"] if name == c["planner"] else {}
  return dict(name=name, horizon=given(_HORIZON, "horizon"), every=given(_EVERY, "every"),
              last=given(_LAST, "last"), **(dict(own) | configs.settings(_SET.value, "set")))


def grid(texts: list[str]) -> list[dict]:
  """All combinations of NAME=VALUE,VALUE,... as keyword arguments.

  Raises:
    ValueError: no "=", a name twice.
  """
  axes = {}
  for text in texts:
    name, values = next(iter(configs.settings([text], "sweep").items()))
    if name in axes:
      raise ValueError(f"--sweep={name} is given twice; write all of its values in one, as in "
                       f"--sweep={name}=1,2")
    if isinstance(values, str):       # a list of names
      values = tuple(values.split(","))
    axes[name] = values if isinstance(values, tuple) else (values,)
  return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def main() -> None:
  """The entry point; see the module's docstring."""
  saved = initial.saved_config(_WORKDIR.value)
  search = search_of(configs.plain(saved))        # what does not exist is said before anything is built
  if _WORLD.value:
    worlds.factory(_WORLD.value)
  if worlds.hosted(_WORLD.value):
    _hosted(experiment.build(saved), search)
    return
  if unknown := [r for r in _ROWS.value if r not in ROWS]:
    raise ValueError(f"--rows: {unknown[0]!r} is unknown; choose among {', '.join(ROWS)}")
  _native(experiment.build(saved), search)


# ---- in a native world ----

def _native(exp: Experiment, search: dict[str, Any]) -> None:
  # 1. The run and its world.
  model = load_model(exp)
  name, args, same = _world_of(exp)
  world = worlds.make(name, **args)
  if exp.config["data"]["source"] == "world" and tuple(world.image) != tuple(exp.train.shape[1:]):
    raise ValueError(f"{name} has images {world.image} and the model was trained on {exp.train.shape[1:]}; "
                     "choose a world of the same images")
  # off the mesh, where every device would do all of the planning
  alone = lambda state: jax.device_get(state._replace(opt=(), key=0))
  state = alone(initial.restore(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value).state)
  start = alone(experiment.initial_state(exp))
  protocol = Protocol(name, world.version, args, _BUDGET.value or world.budget, _EPISODES.value, _SEED.value)

  # 2. Who acts: floors and the trained model, or only the latter in many ways.
  folder, saved = Path(_WORKDIR.value) / "planning", None
  folder.mkdir(parents=True, exist_ok=True)
  two = _subgoals(world, protocol)
  facts = {"protocol": protocol._asdict(), "subgoals": two} | _facts(exp, state)
  if _SWEEP.value:
    _sweep(world, model, state, protocol, search, two, folder, facts)
    return
  about = {"world": name, "version": world.version, "args": json.loads(json.dumps(args)),
           "step": int(state.step)}
  if two:
    saved = _known(folder / "memory", about, state.extra if same else {})

  # 3. Episodes.
  rows, episode = {}, None
  for row in [r for r in ROWS if r in _ROWS.value]:
    print(f"{row} ...", file=sys.stderr, flush=True)
    if row in (RANDOM, STRAIGHT):
      agent = agents.random(world) if row == RANDOM else agents.straight(world)
      rows[row], _ = acting.run(world, agent, protocol, chunk=_CHUNK.value, title=row)
    else:
      weights = {UNTRAINED: start, TRAINED: state, ORACLE: None}[row]
      found = _act(world, model, weights, protocol, search, two, row, saved if row == TRAINED else None)
      rows[row] = found[0]
      if row == TRAINED:
        episode = found[1]
        if two:
          checkpoint.write_tree(folder / "memory", found[2]._asdict(), about)
    logs.write_json(folder / "results.json", facts | {"planner": search, "rows": rows})
  print(f"{name} version {world.version} {args or ''}: {protocol.episodes} episodes of at most "
        f"{protocol.budget} steps, seed {protocol.seed}; {json.dumps(search)} "
        f"{json.dumps(two) if two else ''}\n\n{table(rows)}", flush=True)

  # 4. Pictures.
  if episode is not None:
    pictures.episodes(folder, world, protocol, episode)
  pictures.models(folder, world, model, {"trained": state, "untrained": start}, protocol,
                  horizon=search["horizon"], last=search["last"], landscapes=_LANDSCAPES.value)
  print(f"pictures: {folder}")


def _world_of(exp: Experiment) -> tuple[str, dict[str, Any], bool]:
  """(name, arguments, whether the run was trained on the same) of the world that is asked for."""
  data = exp.config["data"]
  trained_on = data["args"] if data["source"] == "world" else {}
  usual = trained_on.get("name", "two_rooms")
  name = _WORLD.value or usual
  args = dict(trained_on.get("args", {}) if name == usual else {})
  args |= configs.settings(_WORLD_SET.value, "world_set")
  same = bool(trained_on) and {"name": name, "args": args} == {k: trained_on.get(k) for k in ("name", "args")}
  return name, args, same


def _facts(exp: Experiment, state) -> dict[str, Any]:
  return {"facts": logs.facts(), "method": exp.config["method"], "seed": exp.config["seed"],
          "step": int(state.step)}


def _subgoals(world: World, protocol: Protocol) -> dict[str, Any]:
  """Keyword arguments of levels.level that the flags give; {} for one level."""
  chosen = configs.settings(_SUBGOALS_SET.value, "subgoals_set")
  if _SUBGOALS.value == "none":
    if chosen:
      raise ValueError("--subgoals_set without --subgoals: add --subgoals=memory or --subgoals=search")
    return {}
  options = [k for f in (levels.level, levels.proposer) for k, p in inspect.signature(f).parameters.items()
             if p.default is not p.empty and k != "known"]
  if unknown := [k for k in chosen if k not in options]:
    raise ValueError(f"--subgoals_set={unknown[0]} is unknown; choose among {', '.join(options)}")
  if not one_layout(world, protocol):
    raise ValueError(f"--subgoals={_SUBGOALS.value} needs one layout, since a memory of one says nothing of "
                     f"another, and {world.name} draws them: fix it, as in --world_set=random=False "
                     "(two_rooms) or --world_set=number=0 (maze)")
  return dict(kind=_SUBGOALS.value, **chosen)


def _act(world: World, model, state, protocol: Protocol, search: dict[str, Any], two: dict[str, Any],
         title: str, known: jax.Array | None = None) -> tuple:
  """(numbers, episodes, memory) of a planner, with one level or two. known: what a memory begins with."""
  search = dict(search)
  parts = agents.parts(world, model, state, horizon=search["horizon"], last=search.pop("last"))
  planned = lambda proposer=None: agents.planned(world, *parts[:3], dynamics=parts.steps, proposer=proposer,
                                                 **search)
  shown = dict(chunk=_CHUNK.value, title=title)
  if not two:
    return *acting.run(world, planned(), protocol, **shown), None
  latent = lambda state: parts.latents.of_context(parts.observe(state))
  width = jax.eval_shape(latent, world.problem(jax.random.key(0))[0]).shape
  if known is not None and known.shape[1:] != width:
    print(f"the memory's {known.shape[1]} numbers are no latent state of this model, which has {width[0]}; "
          "it begins with what the training behaviour reaches instead", file=sys.stderr)
    known = None
  key = jax.random.fold_in(jax.random.key(protocol.seed), 2)
  level = levels.level(world, parts.observe, parts.latents, key, known, horizon=search["horizon"],
                       every=search["every"], **two)
  agent = lambda memory: planned(level.propose(memory))
  numbers, episode, memory = acting.learning(world, agent, level.memory, protocol, remember=level.remember,
                                             **shown)
  return numbers | {"remembered": [int(level.memory.count), int(memory.count)]}, episode, memory


def _known(folder: Path, about: dict, extra) -> jax.Array | None:
  """Latents [N D] that an earlier call left for this checkpoint and world, or those of the checkpoint."""
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


def _sweep(world: World, model, state, protocol: Protocol, search: dict[str, Any], two: dict[str, Any],
           folder: Path, facts: dict[str, Any]) -> None:
  """The trained model at every setting: sweep.json and sweep.png."""
  points, ways = [], grid(_SWEEP.value)
  for i, way in enumerate(ways):
    title = " ".join(f"{k}={v}" for k, v in way.items())
    print(f"{i + 1} of {len(ways)}: {title} ...", file=sys.stderr, flush=True)
    points.append({"settings": way} | _act(world, model, state, protocol, search | way, two, title)[0])
    logs.write_json(folder / "sweep.json", facts | {"planner": search, "points": points})
    pictures.tradeoff(folder / "sweep.png", points)
  named = {" ".join(f"{k}={v}" for k, v in p["settings"].items()): p for p in points}
  print(f"{protocol.world}: {TRAINED}, {protocol.episodes} episodes of at most {protocol.budget} steps, seed "
        f"{protocol.seed}; {json.dumps(search)}\n\n{table(named)}\n\n{folder / 'sweep.png'}", flush=True)


# ---- in a world on the host ----

def _hosted(exp: Experiment, search: dict[str, Any]) -> None:
  """What the world's arguments leave open is that of the run's data: the size of pictures, and, where the
  world takes them, demonstrations and what was held out. A plan's horizon and every are in actions of the
  model, of `frameskip` (config.data.args) steps of the environment."""
  # 1. The world as the run's data saw it.
  model, name = load_model(exp), _WORLD.value
  world, args, skip = _host_world(exp)
  budget = _BUDGET.value or world.budget
  protocol = Protocol(name, world.version, args, budget, _EPISODES.value, _SEED.value, *world.texts)
  problems, asked = world.problems(protocol.seed, protocol.episodes)

  # 2. Who acts.
  state = initial.restore(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value).state
  recorded = "normaliser" in state.extra and exp.train.generate is None
  root = hosts.root_of(exp.train) if recorded else None
  model_of = lambda s: hosts.planned(world, model, s.params, s.extra, skip=skip, root=root, **search)
  acts = {k: lambda a=a: a for k, a in hosts.floors(world).items()}
  acts |= {UNTRAINED: lambda: model_of(experiment.initial_state(exp)), TRAINED: lambda: model_of(state)}
  wanted = flags.FLAGS["rows"].present and _ROWS.value or acts
  if unknown := [r for r in wanted if r not in acts]:
    raise ValueError(f"--rows: {unknown[0]!r} is unknown in {name}; choose among "
                     f"{', '.join(r for r in hosts.ROWS if r in acts)}")

  # 3. Episodes.
  folder, found = Path(_WORKDIR.value) / "planning", {}
  for row in [r for r in hosts.ROWS if r in wanted]:
    found[row], episode, films = hosts.run(world, acts[row](), protocol, problems, title=row)
    logs.write_json(folder / "results.json", {
        "protocol": protocol._asdict(), "problems": asked, "planner": search | {"frameskip": skip},
        "rows": found} | _facts(exp, state))
    if row == TRAINED:
      for i, frames in enumerate(films):
        pictures.film(folder, i, episode.done[i], frames, problems.goal.image[i])
  print(f"{name} version {world.version} {args}: {protocol.episodes} episodes of at most {budget} steps, "
        f"seed {protocol.seed}, {skip} steps an action; {json.dumps(search)}\nproblems: {json.dumps(asked)}"
        f"\n\n{table(found)}\nresults: {folder}", flush=True)


def _host_world(exp: Experiment) -> tuple[worlds.HostWorld, dict[str, Any], int]:
  """(world, its arguments, steps of it in an action of the model).

  Raises:
    ValueError: pictures that the model was not trained on.
  """
  name, image = _WORLD.value, tuple(exp.train.shape[1:])
  data = exp.config["data"]["args"] if exp.config["data"]["source"] == "trajectories" else {}
  of_data = {"size": image[0]} | {mine: data[theirs] for mine, theirs in (
      ("path", "path"), ("test_share", "test_share"), ("split_seed", "seed")) if theirs in data}
  takes = inspect.signature(worlds.factory(name)).parameters
  args = {k: v for k, v in of_data.items() if k in takes} | configs.settings(_WORLD_SET.value, "world_set")
  world = worlds.make(name, **args)
  if world.image != image:
    raise ValueError(f"{name} has pictures {world.image} and the model was trained on {image}; set "
                     f"--world_set=size={image[0]}")
  return world, args, data.get("frameskip", 1)


if __name__ == "__main__":
  command.run(main, required=["workdir"], interrupted="what is finished is in planning/ of the workdir")
