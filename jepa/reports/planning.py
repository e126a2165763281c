"""Pictures of planning: episodes as GIFs, imagined against real, distances and energies, what success costs.

Shape letters: N problems or episodes, T steps, P numbers of a position, H W C image.
"""
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib import rc_context, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from jepa.planning import agents, control, imagining
from jepa.planning.protocol import Protocol, problem_keys
from jepa.reports.style import STYLE
from jepa.types import TrainState, WorldModel
from jepa.worlds import World


# ---- what jepa.plan draws ----

def episodes(folder: Path, world: World, protocol: Protocol, episode: control.Episode,
             count: int = 6) -> None:
  """The first episodes as GIFs."""
  keys = problem_keys(protocol)
  for i in range(min(count, protocol.episodes)):
    states = jax.tree.map(lambda x: jnp.asarray(x[i]), episode.states)
    _, goal = world.problem(keys[i])
    frames = np.asarray(jax.vmap(world.render)(states))[:1 + int(episode.live[i].sum())]
    film(folder, i, episode.done[i], frames, np.asarray(world.render(goal)))


def models(folder: Path, world: World, model: WorldModel, states: Mapping[str, TrainState],
           protocol: Protocol, *, horizon: int, last: int, landscapes: int, count: int = 6) -> None:
  """What models imagine of `count` problems, and where they see the goals of the first `landscapes`:
  imagined.png, rollouts.png, landscape_*.png."""
  keys = jax.random.split(jax.random.key(protocol.seed), 3)
  starts, goals = jax.vmap(world.problem)(problem_keys(protocol))
  first = lambda states, n: jax.tree.map(lambda x: x[:n], states)
  few, starts, goals = first(starts, count), first(starts, landscapes), first(goals, landscapes)
  flat = "position" in getattr(few, "_fields", ())       # positions are those of the picture
  drawn = len(world.actions.low) > 1 and landscapes > 0

  def seen(parts):
    """Distances and energies."""
    look = parts.observe, parts.aim
    found = {"held": imagining.held(world, parts.energy, *look, starts, goals, horizon=horizon)}
    heat = lambda: imagining.landscape(world, *look, parts.latents, starts, goals)
    return found | ({"heat": heat()} if flat else {})

  @jax.jit      # all of it at once, for each model
  def of_model(state):
    parts = agents.parts(world, model, state, horizon=horizon, last=last)
    weights = model, state.params, state.extra
    found = {"error": imagining.imagined(world, *weights, keys[0], horizon=horizon),
             "probe": imagining.placings(world, parts.observe, parts.latents, keys[1]),
             "paths": imagining.paths(world, *weights, few, keys[2], horizon=horizon)}
    return found | (seen(parts) if drawn else {})

  found = {label: jax.device_get(of_model(state)) for label, state in states.items()}
  _imagination(folder, world, few if flat else None, found)
  if not drawn:
    return
  if not flat:
    print(f"landscapes of {world.name} have no distances: its state is more than a position and a layout")
  truth = lambda: seen(agents.parts(world, model, None, horizon=horizon, last=last))
  found["true simulator"] = jax.device_get(jax.jit(truth)())
  place = lambda states: np.asarray(jax.vmap(world.position)(states))
  for i, (image, *marks) in enumerate(zip(_rendered(world, starts), place(starts), place(goals))):
    heat, held = ({label: f[k][i] for label, f in found.items() if k in f} for k in ("heat", "held"))
    landscape(folder / f"landscape_{i}.png", image, heat, held, *marks, world.actions.low, world.actions.high)


def _imagination(folder: Path, world: World, starts: Any, found: Mapping[str, Mapping]) -> None:
  """imagined.png and rollouts.png of what each model imagined, over pictures of `starts` where there are."""
  errors, read_out, shares = {}, {}, []
  for label, f in found.items():
    # relative to how far states lie apart, so that a collapsed model is not called exact
    scale = max(1e-9, float(f["error"]["still"].mean()))
    errors |= {label: f["error"]["imagined"] / scale, f"{label}, nothing moves": f["error"]["still"] / scale}
    read, share = imagining.probe(*f["probe"])
    read_out[label] = read(f["paths"][1])
    shares.append(f"{share:.2f} {label}")
  imagined(folder / "imagined.png", errors)
  ways = next(iter(found.values()))["paths"][0]
  rollouts(folder / "rollouts.png", [None] * len(ways) if starts is None else _rendered(world, starts), ways,
           read_out, f"positions read from latents by a ridge probe, R2 {', '.join(shares)}")


def _rendered(world: World, states: Any) -> np.ndarray:
  return np.asarray(jax.vmap(world.render)(states))


# ---- films ----

def to_rgb(image: np.ndarray) -> np.ndarray:
  """uint8 [... H W C] of one, two (dot red, walls grey) or three channels -> [... H W 3]."""
  channels = image.shape[-1]
  if channels == 3:
    return image
  if channels == 1:
    return np.repeat(image, 3, -1)
  dot, walls = image[..., :1], image[..., 1:2] // 2
  return np.concatenate([np.maximum(dot, walls), walls, walls], -1)


def film(folder: Path, number: int, done: bool, frames: np.ndarray, goal: np.ndarray) -> None:
  """A GIF named after its outcome, in place of the one of an earlier call."""
  for old in folder.glob(f"episode{number}_*.gif"):
    old.unlink()
  outcome = "reached" if done else "missed"
  gif(folder / f"episode{number}_{outcome}.gif", frames, goal, every=max(1, len(frames) // 60))


def gif(path: str | os.PathLike, frames: np.ndarray, goal: np.ndarray, *, scale: int = 3, every: int = 1,
        ms: int = 60) -> None:
  """An episode, uint8 [T H W C], and beside it the goal [H W C]; `every`-th frames, the last one held."""
  frames = to_rgb(frames[::every])
  both = np.concatenate([frames, np.broadcast_to(to_rgb(goal), frames.shape)], 2)
  images = [Image.fromarray(f).resize((scale * f.shape[1], scale * f.shape[0]), Image.NEAREST) for f in both]
  images[0].save(path, save_all=True, append_images=images[1:], duration=[ms] * (len(images) - 1) + [1000],
                 loop=0)


# ---- figures ----

def imagined(path: str | os.PathLike, errors: Mapping[str, np.ndarray]) -> None:
  """Latent error against steps imagined, a line each; logarithmic, since an untrained model may diverge."""
  with rc_context(STYLE):
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for name, values in errors.items():
      ax.plot(np.arange(1, len(values) + 1), values, label=name, lw=1.8)
    ax.set_xlabel("steps imagined")
    ax.set_ylabel("distance from the real state\n(1: mean of a still one)")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def walls(image: np.ndarray) -> np.ndarray:
  """bool [H W]: where a picture uint8 [H W C] shows a wall: its second channel of two, black of three."""
  return image[..., 1] > 127 if image.shape[-1] == 2 else (image.max(-1) < 64)


def landscape(path: str | os.PathLike, image: np.ndarray, heat: Mapping[str, np.ndarray],
              held: Mapping[str, np.ndarray], start: np.ndarray, goal: np.ndarray, low: np.ndarray,
              high: np.ndarray) -> None:
  """Above, the distance to the goal [side side] from everywhere in the picture [H W C], walls black, start a
  circle, goal a star; below, the energy [side side] of one action held, its least a cross; a column for each
  name. `heat` may be empty. Colours are of each panel's own range."""
  with rc_context(STYLE):
    rows = 2 if heat else 1
    figure = Figure(figsize=(2.9 * len(held), 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(held), squeeze=False)
    height, width = image.shape[:2]
    for ax, (name, values) in zip(axes[0] if heat else (), heat.items()):
      ax.imshow(np.sqrt(np.maximum(values, 0)), extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                cmap="viridis", interpolation="nearest")
      solid = walls(image)
      ax.imshow(np.where(solid[..., None], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]))
      ax.plot(*start[:2], "o", color="white", mec="black", ms=6)
      ax.plot(*goal[:2], "*", color="red", mec="black", ms=11)
      ax.set_title(f"distance to the goal: {name}", fontsize=8)
      ax.set_xticks([])
      ax.set_yticks([])
    for ax, (name, values) in zip(axes[-1], held.items()):
      x, y = (np.linspace(low[i], high[i], values.shape[0]) for i in (0, 1))
      known = np.isfinite(values)
      if np.ptp(values[known]) > 0:
        ax.contourf(x, y, np.ma.masked_invalid(values), levels=16, cmap="viridis")
      row, column = np.unravel_index(np.where(known, values, np.inf).argmin(), values.shape)
      ax.plot(x[column], y[row], "x", color="red", ms=7, mew=2)
      ax.set_aspect("equal")
      ax.invert_yaxis()       # as in pictures, y down
      ax.set_title(f"energy of one action held: {name}", fontsize=8)
    figure.savefig(path, dpi=130)


def rollouts(path: str | os.PathLike, images: Sequence[np.ndarray | None], real: np.ndarray,
             imagined: Mapping[str, np.ndarray], title: str) -> None:
  """A panel for each of N episodes: the way that was gone [N T P] and those that were imagined, likewise,
  over the picture [H W C] of the first state, or over nothing where it does not show positions."""
  with rc_context(STYLE):
    columns = min(3, len(real))
    figure = Figure(figsize=(2.9 * columns, 2.9 * -(-len(real) // columns) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(real) // columns), columns, squeeze=False).ravel()
    for ax in axes[len(real):]:
      ax.axis("off")
    for i, (ax, image, way) in enumerate(zip(axes, images, real)):
      if image is not None:
        ax.imshow(np.where(walls(image)[..., None], 0.0, [1.0, 1.0, 1.0]))
      ax.plot(*way[:, :2].T, color="black", lw=1.6, label="real")
      ax.plot(*way[0, :2], "o", color="black", ms=5)
      for name, ways in imagined.items():
        ax.plot(*ways[i, :, :2].T, lw=1.4, label=name)
      if image is not None:         # an untrained model leaves it
        ax.set_xlim(-0.5, image.shape[1] - 0.5)
        ax.set_ylim(image.shape[0] - 0.5, -0.5)
      ax.set_xticks([])
      ax.set_yticks([])
    axes[0].legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=130)


def tradeoff(path: str | os.PathLike, points: Sequence[Mapping]) -> None:
  """Success with its 95 % interval against seconds an episode, a point for each setting."""
  with rc_context(STYLE):
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for i, p in enumerate(points):
      share = 100 * np.array([p["success"] - p["low"], p["high"] - p["success"]])[:, None]
      ax.errorbar(p["seconds_per_episode"], 100 * p["success"], np.maximum(share, 0),
                  fmt="os^vDP"[i // 10 % 6], ms=4, capsize=2, color=f"C{i % 10}", elinewidth=0.8,
                  label=" ".join(f"{k}={v}" for k, v in p["settings"].items()))
    ax.set_xscale("log")
    ax.set_ylim(-3, 103)
    ax.set_xlabel("seconds an episode")
    ax.set_ylabel("success, %")
    figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)
