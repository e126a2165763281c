"""The report of a run: which pictures to draw of it, from its config, its state and its features."""
import json
from pathlib import Path
import shlex
import sys

import jax
import numpy as np

from jepa import experiment, logs, masks as mask_samplers, sharding, views as view_recipes
from jepa.data import pipeline
from jepa.evals import report as reports
from jepa.evals.features import FeatureSet
from jepa.evals.suite import PIXELS, TRAINED, UNTRAINED
from jepa.experiment import Experiment
from jepa.types import TrainState

SHOWN = 8      # images a picture


def report(exp: Experiment, state: TrainState, workdir: Path, rows: list[dict],
           by_row: dict[str, FeatureSet]) -> Path:
  """Writes workdir/report.html and workdir/figures/*.png; returns the page's path."""
  figures = workdir / "figures"
  examples = _examples(exp)
  panels = _of_the_method(exp, examples["image"], figures)
  tokens = {name: _tokens(exp, s, examples)
            for name, s in ((UNTRAINED, experiment.initial_state(exp)), (TRAINED, state))}
  side = round(tokens[TRAINED].shape[1] ** 0.5)
  if side * side == tokens[TRAINED].shape[1] > 1:
    panels["pca"] = reports.panel_pca(examples["image"][:SHOWN], tokens, (side, side),
                                      path=figures / "pca.png")
  panels["spectrum"] = reports.panel_spectrum({k: v.train_x for k, v in by_row.items()},
                                              path=figures / "spectrum.png")
  if exp.train.arrays is not None and exp.test.arrays is not None:
    panels["neighbours"] = reports.panel_neighbours(exp.train.arrays["image"], exp.test.arrays["image"],
                                                    {k: by_row[k] for k in (PIXELS, UNTRAINED, TRAINED) if k in by_row},
                                                    path=figures / "neighbours.png")
  facts = logs.facts()
  return reports.write(
      workdir / "report.html", title=f"{exp.config['method']}: {exp.train.describe}", rows=rows,
      history=logs.history(workdir), panels=panels,
      command="python -m jepa.main " + shlex.join(sys.argv[1:]) if sys.argv[0].endswith("main.py") else "",
      config=json.dumps(exp.config, indent=2, default=str), revision=facts["git"],
      hardware=f"{facts['devices']} x {facts['device']}, jax {facts['jax']}, Python {facts['python']}")


def _examples(exp: Experiment) -> dict[str, np.ndarray]:
  """The first test images of each class in turn, as a batch the mesh can split."""
  pieces = exp.mesh.shape["data"] * exp.mesh.shape["fsdp"]
  size = -(-max(SHOWN, pieces) // pieces) * pieces
  batch, valid = next(
      iter(pipeline.epoch(exp.test, batch=max(size, min(1000, exp.test.length // pieces * pieces or size)))))
  label = batch["label"][:valid]
  turn = np.array([np.sum(label[:i] == label[i]) for i in range(valid)])
  order = np.resize(np.lexsort((label, turn)), size)
  return {k: np.asarray(v)[order] for k, v in batch.items()}


def _tokens(exp: Experiment, state: TrainState, examples: dict[str, np.ndarray]) -> np.ndarray:
  embed = jax.jit(exp.method.embed, out_shardings=sharding.replicated(exp.mesh))
  return np.asarray(
      embed(state.params, state.extra, jax.device_put(examples, sharding.of_batch(exp.mesh))).tokens)


def _of_the_method(exp: Experiment, images: np.ndarray, figures: Path) -> dict[str, str]:
  """What the method does to images: its views, or its masks, as its arguments name them."""
  args, key = exp.config["args"], jax.random.key(exp.config["seed"])
  x = view_recipes.to_float(images[:SHOWN])
  panels = {}
  if "views" in args:
    groups = [np.asarray(g) for g in view_recipes.make(**args["views"])(key, x)]
    panels["views"] = reports.panel_views(images[:SHOWN], groups, path=figures / "views.png")
  if "masks" in args:
    patch = args["encoder"].get("patch", 16)
    if args.get("view"):
      x = view_recipes.make(**args["view"])(key, x)[0][0]
    grid = (x.shape[1] // patch, x.shape[2] // patch)
    drawn = mask_samplers.multiblock(**args["masks"])(key, len(x), grid)
    panels["masks"] = reports.panel_masks(np.asarray(x), drawn.context, drawn.targets, grid,
                                          path=figures / "masks.png")
  return panels
