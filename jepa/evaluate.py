r"""Evaluates a trained run: python -m jepa.evaluate --workdir=runs/quickstart [--checkpoint=N]
[--evals=linear,knn,...]

Writes results.json and report.html in the workdir and prints the table, with the floors (raw pixels, the same
encoder untrained) beside every number.
"""
from pathlib import Path
import sys

from absl import flags

from jepa import command

_WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a trained run.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Step to evaluate; the newest by default.",
                                   lower_bound=0)
_EVALS = flags.DEFINE_list("evals", [], "Evaluators, comma separated; config.eval.final by default.")


def main() -> None:
  """The entry point; see the module's docstring."""
  import jax
  from jepa import evaluation, experiment, initial
  exp = experiment.build(initial.saved_config(_WORKDIR.value))
  with jax.set_mesh(exp.mesh):
    restored = initial.restore(_WORKDIR.value, exp.abstract, exp.shardings, _CHECKPOINT.value)
    for text in evaluation.final(exp, restored.state, Path(_WORKDIR.value), _EVALS.value):
      print(f"COLLAPSE ALARM: {text}", file=sys.stderr)


if __name__ == "__main__":
  command.run(main, required=["workdir"], interrupted="results are written when all are measured")
