"""What several tests need of a run: its config, its parts, its losses."""
import inspect
from pathlib import Path

import jax
import numpy as np

from jepa import experiment, recipes

ROOT = Path(__file__).parents[1]


def listed(folder: Path) -> tuple[dict[str, str], list[str]]:
  """(method by name of a run's config, names of studies' configs) of a folder, by what they return. A file
  that returns nothing is a run of no method: its own tests tell why, and the others are collected."""
  methods, studies = {}, []
  for path in sorted(folder.glob("[!_]*.py")):
    try:
      c = recipes.of_file(path, path.stem, "tiny")
    except Exception:
      c = {}
    if "study" in c:
      studies.append(path.stem)
    else:
      methods[path.stem] = c.get("method", "")
  return methods, studies


METHODS, STUDIES = listed(ROOT / "configs")
CONFIGS = list(METHODS)


def one_config_per_method() -> list[str]:
  """For tests too slow to run over every config."""
  by_method = {}
  for name, method in METHODS.items():
    by_method.setdefault(method or name, name)
  return sorted(by_method.values())


def config(name: str, arg: str | None = "tiny", **fields):
  """configs/<name>.py's config with some top-level fields replaced."""
  c = recipes.of_file(ROOT / "configs" / f"{name}.py", name, arg)
  for key, value in fields.items():
    c[key] = value
  return c


def rooms(**fields):
  """Two Rooms with an encoder of one convolution, which compiles faster, for what is not about encoders."""
  c = config("two_rooms", **fields)
  c.args.encoder = dict(widths=(4,), outputs=8, blocks=0, strides=(8,), groups=2)
  return c


def batches(exp: experiment.Experiment, count: int) -> list[dict]:
  """The first global batches of a run."""
  from jepa.data import pipeline
  stream = pipeline.train(exp.train, batch=exp.config["batch"], seed=exp.config["seed"])
  return [next(stream) for _ in range(count)]


def compiled(functions):
  """A network, a method or a world model with each of its functions compiled as one program: run one
  operation at a time, every operation of every shape is a program of its own."""
  def jit(f):
    return jax.jit(f, static_argnames=[k for k in ("train", "parts") if k in inspect.signature(f).parameters])
  return functions._replace(**{name: jit(f) for name, f in functions._asdict().items()})


def equal(a, b) -> bool:
  """Whether two trees hold the same bits."""
  words = lambda x: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
                               else x)
  same = jax.tree.map(lambda x, y: np.array_equal(words(x), words(y)), a, b)
  return all(jax.tree.leaves(same))
