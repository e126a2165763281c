"""What several tests need of a run: its config, its parts, its losses."""
import importlib.util
import inspect
from pathlib import Path

import jax
import numpy as np

from jepa import experiment

ROOT = Path(__file__).parents[1]
STUDIES = ("collapse", "compare", "detail")      # configs of jepa.study, many runs each
CONFIGS = sorted({p.stem for p in (ROOT / "configs").glob("*.py")} - set(STUDIES))


def one_config_per_method() -> list[str]:
  """For tests too slow to run over every config."""
  by_method = {}
  for name in CONFIGS:
    by_method.setdefault(config(name).method, name)
  return sorted(by_method.values())


def config(name: str, arg: str | None = "tiny", **fields):
  """configs/<name>.py's config with some top-level fields replaced."""
  spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config(arg)
  for key, value in fields.items():
    c[key] = value
  return c


def rooms(**fields):
  """Two Rooms with an encoder of one convolution, for what is not about encoders, since it compiles faster."""
  c = config("two_rooms", **fields)
  c.args.encoder = dict(widths=(4,), outputs=8, blocks=0, strides=(8,), groups=2)
  return c


def batches(exp: experiment.Experiment, count: int) -> list[dict]:
  """The first global batches of a run."""
  from jepa.data import pipeline
  stream = pipeline.train(exp.train, batch=exp.config["batch"], seed=exp.config["seed"])
  return [next(stream) for _ in range(count)]


def compiled(functions):
  """A network, a method or a world model with each of its functions compiled as one program: run one operation at a
  time, every operation of every shape is a program of its own."""
  def jit(f):
    return jax.jit(f, static_argnames=[k for k in ("train", "parts") if k in inspect.signature(f).parameters])
  return functions._replace(**{name: jit(f) for name, f in functions._asdict().items()})


def equal(a, b) -> bool:
  """Whether two trees hold the same bits."""
  words = lambda x: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
                               else x)
  same = jax.tree.map(lambda x, y: np.array_equal(words(x), words(y)), a, b)
  return all(jax.tree.leaves(same))
