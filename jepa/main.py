r"""Trains: python -m jepa.main --config=configs/quickstart.py --workdir=runs/quickstart
[--config.a.b=value ...]

The same command again continues an interrupted run. Exit codes: 0 done, 75 interrupted and saved, 130
interrupted before or after training, 1 an error.
"""
from absl import flags
from ml_collections import config_flags

from jepa import command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, as FILE or FILE:ARGUMENT; override its fields with "
    "--config.a.b=value, as in --config.data.source=folder --config.data.args.path=PICTURES.",
    lock_config=False, accept_new_attributes=True)      # for keywords that the file does not mention
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


def main() -> int:
  """Trains; returns the exit code."""
  import jax      # here, since it takes a second that --help need not wait for
  from jepa import config, train
  flag = flags.FLAGS["config"]
  written = flag.parser.parse(config_flags.get_config_filename(flag))      # as the file has it
  for path in config_flags.get_override_values(flag):
    config.known(written, path)
  if _COORDINATOR.value:
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  elif _DISTRIBUTED.value:
    jax.distributed.initialize()
  return train.run(_CONFIG.value, _WORKDIR.value, profile=_window(_PROFILE.value))


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
  command.run(main, required=["config", "workdir"],
              interrupted="the same command goes on from what is saved")


if __name__ == "__main__":
  run()
