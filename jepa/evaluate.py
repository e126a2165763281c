r"""Evaluates a trained run: python -m jepa.evaluate --workdir=runs/quickstart [--checkpoint=N]
[--evals=linear,knn,...]

Writes results.json and report.html in the workdir and prints the table, with the floors (raw pixels, the same
encoder untrained) beside every number.
"""
from jepa import heap

heap.keep()      # before JAX starts its backend

from pathlib import Path
import sys

from absl import app, flags, logging
import jax

from jepa import evaluation, experiment, logs

_WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a trained run.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Step to evaluate; the newest by default.",
                                   lower_bound=0)
_EVALS = flags.DEFINE_list("evals", [], "Evaluators, comma separated; config.eval.final by default.")


def main(argv: list[str]) -> None:
  """The entry point; see the module's docstring."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
  logs.quiet_libraries()
  try:
    exp = experiment.build(experiment.saved_config(_WORKDIR.value))
    with jax.set_mesh(exp.mesh):
      restored = experiment.load(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value)
      for text in evaluation.final(exp, restored.state, Path(_WORKDIR.value), _EVALS.value):
        print(f"COLLAPSE ALARM: {text}", file=sys.stderr)
  except (ValueError, FileNotFoundError, RuntimeError) as error:
    if logging.level_debug():
      raise
    print(f"\njepa: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  app.run(main)
