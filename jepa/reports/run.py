"""The page of a run: report.html with its figures, the table of results, the facts that make it repeatable.
Which figures there are is told by its config, its state and its features; any may be missing."""
from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import shlex
import sys
from typing import Any

from absl import logging
import jax
import numpy as np

from jepa import experiment, logs, masks as mask_samplers, sharding, views as view_recipes
from jepa.data import pipeline
from jepa.evals import features as F, results
from jepa.evals.results import PIXELS, TRAINED, UNTRAINED
from jepa.experiment import Experiment
from jepa.reports import curves, panels, style
from jepa.types import TrainState

SHOWN = 8      # images a picture
SCALE = 1.8    # of pictures on the page

# Title and caption of the panels that are known, in the order of the page.
PANELS = {
    "curves": ("Loss and probes while training",
        "Left: the training loss, thin, and its running median. Middle: probes of the frozen encoder; "
        "dashed lines of the same colour are the floors, dotted raw pixels and dashed the untrained "
        "encoder. Learning shows as a curve that leaves its floors behind; a loss that falls under a flat "
        "probe is collapse, or a task that is too easy. Right: RankMe, the number of directions the "
        "features use, and their spread."),
    "views": ("Views",
        "Each column is one image; under it are the views that the loss compares. What differs between "
        "views is what the encoder is asked to forget."),
    "masks": ("Masks",
        "Above: images. Below: what the context encoder sees; dimmed patches are hidden from it. Each "
        "coloured outline is a target block whose representation is predicted."),
    "pca": ("Feature maps",
        "The first three principal components of all tokens, fitted jointly over these images, as red, "
        "green and blue. The same colour means a similar representation: parts of objects should share "
        "colours across images, and a map that follows position alone has learned no content."),
    "spectrum": ("Spectrum of the features",
        "Singular values of the centred features over the largest one, on logarithmic axes. A curve that "
        "falls off a cliff has collapsed onto the directions before it."),
    "neighbours": ("Nearest neighbours",
        "A test image, then the training images nearest to it (cosine), nearest first, by pixels and by "
        "encoder. Frames: green where the label is the same, red where it is not."),
}


def write(exp: Experiment, state: TrainState, workdir: Path, rows: Sequence[results.Row],
          by_row: Mapping[str, F.FeatureSet]) -> Path | None:
  """Writes workdir/report.html and workdir/figures/*.png; returns the page's path. To be called on every
  process, of which the first draws and writes; None on the others. rows: results. by_row: the features that
  they are of."""
  figures, examples = workdir / "figures", _examples(exp)
  tokens = {name: _tokens(exp, s, examples)
            for name, s in ((UNTRAINED, experiment.initial_state(exp)), (TRAINED, state))}
  if jax.process_index():
    return None
  drawn = _of_the_method(exp, examples["image"], figures)
  side = round(tokens[TRAINED].shape[1] ** 0.5)
  if side * side == tokens[TRAINED].shape[1] > 1:
    drawn["pca"] = panels.pca(examples["image"][:SHOWN], tokens, (side, side), path=figures / "pca.png")
  drawn["spectrum"] = panels.spectrum({k: v.train_x for k, v in by_row.items()},
                                      path=figures / "spectrum.png")
  if exp.train.arrays is not None and exp.test.arrays is not None:
    drawn["neighbours"] = panels.neighbours(
        exp.train.arrays["image"], exp.test.arrays["image"],
        {k: by_row[k] for k in (PIXELS, UNTRAINED, TRAINED) if k in by_row}, path=figures / "neighbours.png")
  facts = logs.facts()
  return page(
      workdir / "report.html", title=f"{exp.config['method']}: {exp.train.describe}", rows=rows,
      history=logs.history(workdir), drawn=drawn, config=json.dumps(exp.config, indent=2, default=str),
      command="python -m jepa.main " + shlex.join(sys.argv[1:]) if sys.argv[0].endswith("main.py") else "",
      revision=facts["git"], hardware=style.hardware(facts))


def page(path: Path, *, title: str, rows: Sequence[results.Row], history: Sequence[Mapping[str, Any]] = (),
         drawn: Mapping[str, str | os.PathLike] = {}, command: str = "", config: str = "", revision: str = "",
         hardware: str = "", notes: str = "") -> Path:
  """Writes the page and, from `history` and `rows`, its curves (figures/curves.png beside it, unless they are
  drawn); returns its path.

  Args:
    rows: results, as in results.json. history: records of metrics.jsonl.
    drawn: PNG files by name; names of PANELS get their titles and captions, other names are their own title.
      A file that does not exist is left out and named in the log.
    command, config, revision, hardware: the facts that make the run repeatable. notes: a paragraph under the
      title.
  """
  drawn = dict(drawn)
  if "curves" not in drawn:
    try:
      drawn["curves"] = curves.draw(history, rows, path=path.parent / "figures" / "curves.png")
    except ValueError as error:
      logging.info("report without curves: %s", error)
  sections = []
  for name in (*(p for p in PANELS if p in drawn), *(p for p in drawn if p not in PANELS)):
    if Path(drawn[name]).is_file():
      sections.append(style.section(drawn[name], *PANELS.get(name, (name, "")), scale=SCALE))
    else:
      logging.warning("report without %r: %s does not exist", name, drawn[name])
  return style.page(path, title=title, notes=notes, table=_table(rows), panels=sections, config=config,
                    rows=rows, facts={"Command": command, "Git revision": revision, "Hardware": hardware})


def _table(rows: Sequence[results.Row]) -> str:
  if not rows:
    return "<p>No evaluation has been made.</p>"
  shown = results.columns(rows)
  titles, lines = results.cells(rows, shown)
  text = style.escape
  head = "".join(f"<th>{text(a)}<br><small>{text(b) or '&nbsp;'}</small></th>" for a, b in titles)
  best = {}
  for i, (*_, kind) in enumerate(shown):
    values = [means[i] for _, _, means in lines if means[i] is not None]
    if kind == "percent" and len(values) > 1:       # RankMe and std are diagnoses, not scores
      best[i] = max(values)
  body = []
  for name, texts, means in lines:
    cells = "".join(f"<td>{f'<b>{text(t)}</b>' if m is not None and best.get(i) == m else text(t)}</td>"
                    for i, (t, m) in enumerate(zip(texts, means)))
    mark = " class=trained" if name == TRAINED else ""
    body.append(f'<tr{mark}><th scope="row">{text(name)}</th>{cells}</tr>')
  protocols = [r["protocol"] for r in rows if {"train", "test"} <= set(r["protocol"])]
  data = f" Data: {protocols[0]['train']}; tested on {protocols[0]['test']}." if protocols else ""
  return style.table(f"<th></th>{head}", body, [
      "Accuracies in %, the best of each column in bold; ± is one standard deviation over draws of the "
      "labelled subset, or over runs. RankMe counts directions that the features use and is bounded by their "
      f"width, so it compares rows of equal width only.{data}"])


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
  drawn = {}
  if "views" in args:
    groups = [np.asarray(g) for g in view_recipes.make(**args["views"])(key, x)]
    drawn["views"] = panels.views(images[:SHOWN], groups, path=figures / "views.png")
  if "masks" in args:
    patch = args["encoder"].get("patch", 16)
    if args.get("view"):
      x = view_recipes.make(**args["view"])(key, x)[0][0]
    grid = (x.shape[1] // patch, x.shape[2] // patch)
    blocks = mask_samplers.multiblock(**args["masks"])(key, len(x), grid)
    drawn["masks"] = panels.masks(np.asarray(x), blocks.context, blocks.targets, grid,
                                  path=figures / "masks.png")
  return drawn
