"""Configs: the defaults of a run, durations, and the step from config strings to code.

A config file defines `get_config(arg=None) -> ConfigDict`, starts from `base()` and overwrites what its paper
says. Below this file nobody sees a ConfigDict: factories are called as `make(**args)`, so Python signatures
are the schema.
"""
import ast
from collections.abc import Callable, Iterable, Mapping
import difflib
import importlib
import inspect
from pathlib import Path
import re
import sys
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

UNITS = {"step": "steps", "steps": "steps", "example": "examples", "examples": "examples",
         "epoch": "epochs", "epochs": "epochs", "%": "percent", "percent": "percent"}
_DURATION = re.compile(r"^\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*(%|[a-z]+)\s*$")


def base() -> ConfigDict:
  """The defaults of a run. Durations are strings: "500 steps", "1e6 examples", "300 epochs", "5 %" of it."""
  c = ConfigDict()
  c.seed = 0                      # the only randomness: initialisation, views, masks, order of the data
  c.total = "500 steps"           # length of the run
  c.batch = 256                   # global batch, over all devices and processes
  c.accumulate = 1                # micro-batches a step; statistics are then those of a micro-batch

  c.method = "lejepa"             # jepa/methods/<method>.py, or a dotted path into your own package
  c.args = ConfigDict()           # keyword arguments of its make()

  c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))    # devices along each axis; -1: all that are left
  c.replicated_tolerance = 0.02   # with fsdp > 1: the largest share of bytes that may end replicated

  c.memory = 0                    # pooled latents kept in the state, and so in every checkpoint: those of the
                                  # last so many examples, to plan with (jepa.plan --subgoals); 0: none
  # what jepa.plan does where its flags say nothing; args: of jepa/planning/<planner>.py
  c.plan = ConfigDict(dict(planner="mppi", horizon=50, every=10, last=0, args={}))

  # source: jepa/data/sources/<source>.py
  c.data = ConfigDict(dict(source="mnist5k", args={}, train="train", test="test"))
  c.data.workers = 0              # processes that decode, for sets that do not fit in memory
  c.data.prefetch = 2             # batches prepared ahead

  c.optim = ConfigDict(dict(name="adamw", lr=dict(kind="cosine", value=1e-3, warmup="5 %"),
                            weight_decay=dict(value=0.05), clip=0.0))

  # 1. resume from the workdir > 2. this checkpoint, whole > 3. encoder weights only > 4. scratch
  c.init = ConfigDict(dict(checkpoint="", encoder=""))

  # milestones: also keep one at each multiple
  c.checkpoint = ConfigDict(dict(every="20 %", keep=2, milestones=""))
  c.log = ConfigDict(dict(every="10 steps", tensorboard=True))
  c.eval = ConfigDict(dict(every="25 %", online=("linear", "knn", "collapse"),
                           final=("linear", "lowshot", "knn", "collapse"), batch=500, train_limit=0, args={}))
  c.eval.pool = "pooled"          # which vector of the frozen encoder is probed: jepa/evals/features.py POOLS
  c.eval.floors = True            # also of raw pixels and the untrained encoder; a study measures them once
  c.eval.alarm = "warn"           # on collapse: "warn", "stop" or "off"
  c.eval.levels = ConfigDict()    # of what counts as collapse, where not those of jepa/evals/collapse.py;
                                  # None: never
  c.eval.report = True            # report.html and figures/ at the end
  c.nonfinite = 0                 # isolated non-finite steps skipped and counted before the run stops;
                                  # 0 stops at the first
  return c


# Keyword arguments: the factories that they go to say which there are.
OPEN = ("args", "data.args", "plan.args", "eval.args", "eval.levels", "optim")


def known(c: ConfigDict, path: str) -> None:
  """Nothing, if `c` has the field `path`, such as "data.args.size", or leaves it to a factory.

  Raises:
    ValueError: it has not; with a suggestion.
  """
  at, parts = c, path.split(".")
  for i, part in enumerate(parts):
    if ".".join(parts[:i]) in OPEN:
      return
    fields = list(at) if isinstance(at, ConfigDict) else []
    if part not in fields:
      raise ValueError(f"config.{path} is not a field{hint(part, fields)}"
                       + (f" Fields: {', '.join(fields)}" if fields else ""))
    at = at[part]


def tiny(c: ConfigDict, **args) -> ConfigDict:
  """The config in seconds on a CPU: synthetic 16x16 images, 4 steps of 16,
  arguments of the method replaced by `args`.

  Every file of configs/ gives it for the argument "tiny"; the contract tests run on it,
  and so can a newcomer.
  """
  c = ConfigDict(c.to_dict())
  c.total, c.batch, c.accumulate = "4 steps", 16, 1
  c.data = dict(source="synthetic", args=dict(n=64, size=16, channels=3, classes=4), train="train",
                test="test", workers=0, prefetch=2)
  # replaced whole: update() would merge an encoder's sizes with the ones it had
  for key, value in args.items():
    if key in c.args:
      del c.args[key]
    c.args[key] = value
  if "warmup" in c.optim.lr:
    c.optim.lr.warmup = "1 step"
  c.checkpoint = dict(every="2 steps", keep=2, milestones="")
  c.log.every = "1 step"
  c.eval = base().eval
  c.eval.online, c.eval.final, c.eval.batch, c.eval.report = (), ("knn", "collapse"), 32, False
  return c


def duration(text: str | int, *, batch: int, examples: int, total: int | None = None) -> int:
  """Steps in a duration such as "300 epochs". `examples`: length of the training set; `total`: of the run.

  Raises:
    ValueError: not a duration, epochs of an empty or unknown set, or a percentage of an unknown run.
  """
  if isinstance(text, int):
    return text
  match = _DURATION.match(text) or _DURATION.match(f"{text} steps")
  unit = UNITS.get(match.group(2)) if match else None
  if unit is None:
    raise ValueError(f"{text!r} is not a duration; write '500 steps', '1e6 examples', '300 epochs' or '5 %'")
  number = float(match.group(1))
  if unit == "percent":
    if total is None:
      raise ValueError(f"{text!r}: config.total itself cannot be a percentage")
    return round(number / 100 * total)
  if unit == "epochs":
    if examples < 1:
      raise ValueError(f"{text!r}: the training set has no known length; give steps or examples")
    number *= examples
  return round(number / (1 if unit == "steps" else batch))


def resolve(tree: Any, **sizes) -> Any:
  """A copy of a plain tree, in which every string that reads as a `duration` is a number of steps."""
  if isinstance(tree, Mapping):
    return {k: resolve(v, **sizes) for k, v in tree.items()}
  if isinstance(tree, (list, tuple)):
    return type(tree)(resolve(v, **sizes) for v in tree)
  match = _DURATION.match(tree) if isinstance(tree, str) else None
  return duration(tree, **sizes) if match and match.group(2) in UNITS else tree


def plain(c: ConfigDict) -> dict:
  """Nested dicts, lists and tuples, without references: what may cross a factory call."""
  return c.to_dict()


def module(name: str, package: str, entry: str = "make") -> ModuleType:
  """The module a config string names: `package.name`, or `name` itself where it has a dot.

  Raises:
    ValueError: no such module, or one without `entry`; says what exists and what may have been meant.
  """
  path = name if "." in name else f"{package}.{name}"
  found = cause = None
  try:
    found = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if error.name != path and not path.startswith(f"{error.name}."):
      raise      # the module exists and one of its own imports does not
    cause = error
  if hasattr(found, entry):
    return found
  known = names(package, entry)
  raise ValueError(f"{f'{path} has no {entry}' if found else f'there is no {path}'}{hint(name, known)} "
                   f"Known: {', '.join(known)}; a dotted path imports from your own package") from cause


def names(package: str, entry: str = "make") -> list[str]:
  """Files of a package's folder that define the function `entry`, by name; nothing of them is imported."""
  defines = re.compile(rf"^def {entry}\(", re.M)
  folder = Path(importlib.import_module(package).__file__).parent
  files = [path for path in folder.glob("[!_]*.py") if defines.search(path.read_text("utf-8"))]
  return sorted(path.stem for path in files)


def call(function: Callable, where: str, /, **kwargs) -> Any:
  """function(**kwargs); where a keyword does not exist, an error with its config field and a suggestion."""
  parameters = inspect.signature(function).parameters
  named = getattr(function, "func", function)       # a partial has no name
  if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    for key in kwargs:
      if key not in parameters:
        raise ValueError(
            f"{where}.{key} is not an option{hint(key, parameters)} Options: {', '.join(parameters)}")
    for key, p in parameters.items():
      if p.default is p.empty and key not in kwargs:
        raise ValueError(f"{where}.{key} is missing: {named.__module__}.{named.__qualname__} needs it")
  try:
    return function(**kwargs)
  except TypeError as error:      # a keyword of a nested factory, say an encoder's
    unexpected = re.match(r"(?:.*\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not unexpected:
      raise
    nested, key = unexpected.groups()
    known = _options(nested, key, ("jepa", named.__module__.partition(".")[0]))
    raise ValueError(f"{where}: {nested} has no option {key!r}"
                     + (f"{hint(key, known)} Options: {', '.join(known)}" if known else "")) from error


def _options(name: str, absent: str, packages: tuple[str, ...]) -> list[str]:
  """Keywords of the function of this name, in what is imported of the packages, that has no keyword `absent`;
  of two the one with the more similar keyword, [] of more."""
  own = [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").partition(".")[0] in packages]
  found = {f for m in own if inspect.isfunction(f := vars(m).get(name)) and f.__module__ == m.__name__}
  keywords = [k for f in found if absent not in (k := list(inspect.signature(f).parameters))]
  alike = lambda known: max((difflib.SequenceMatcher(None, absent, k).ratio() for k in known), default=0)
  return max(keywords, key=alike) if 0 < len(keywords) <= 2 else []


def settings(texts: Iterable[str], flag: str) -> dict[str, Any]:
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


def hint(word: str, known) -> str:
  """Ends a sentence with the nearest of the known words, if one is near."""
  close = difflib.get_close_matches(word, list(known), n=1)
  return f"; did you mean {close[0]!r}?" if close else "."
