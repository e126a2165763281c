r"""Trains: python -m jepa.main --config=configs/quickstart.py --workdir=runs/quickstart
[--config.a.b=value ...]

The same command again continues an interrupted run. Exit codes: 0 done, 75 interrupted and saved, 130
interrupted before or after training, 1 an error.
"""
import sys

from jepa import heap

heap.keep()      # before JAX starts its backend

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from jepa import logs, train

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, as FILE or FILE:ARGUMENT; override its fields with "
    "--config.a.b=value.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics.jsonl, results.json and report.html go. The same one again "
    "continues the run.")
_PROFILE = flags.DEFINE_string(
    "profile", "",
    "FIRST:COUNT, the steps to trace into workdir/profile (read it with TensorBoard or Perfetto).")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False,
                                 "Many processes, found by themselves on Slurm, TPU and Kubernetes.")
_COORDINATOR = flags.DEFINE_string("coordinator", "",
                                   "HOST:PORT of process 0, where processes are not found by themselves.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes.",
                                  lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is.",
                                lower_bound=0)


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  logs.quiet_libraries()
  if _COORDINATOR.value:
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  elif _DISTRIBUTED.value:
    jax.distributed.initialize()
  try:
    code = train.run(_CONFIG.value, _WORKDIR.value, profile=_window(_PROFILE.value))
  except (ValueError, OSError, train.NonFinite, train.Collapse, RuntimeError) as error:
    if logging.level_debug():
      raise
    # what is wrong and what to do; --verbosity=1 shows where
    print(f"\njepa: {type(error).__name__}: {error}", file=sys.stderr)
    code = 1
  except KeyboardInterrupt:         # while it trains, a run saves first and answers 75
    print("\njepa: interrupted; the same command goes on from what is saved", file=sys.stderr)
    code = 130
  sys.exit(code)


def _window(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  try:
    first, count = (int(part) for part in text.split(":"))
  except ValueError:
    raise ValueError(f"--profile={text} is not FIRST:COUNT, as in --profile=20:5") from None
  return first, count


def run() -> None:
  """Parses flags and runs; the program's `main`."""
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)


if __name__ == "__main__":
  run()
