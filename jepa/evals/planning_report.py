"""Pictures of planning: episodes as GIFs, the energy over the places of a world, imagined against real."""
from collections.abc import Mapping, Sequence
import os

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from jepa.evals import report


def to_rgb(image: np.ndarray) -> np.ndarray:
  """uint8 [... H W C] of one, two (dot red, walls grey) or three channels -> [... H W 3]."""
  channels = image.shape[-1]
  if channels == 3:
    return image
  if channels == 1:
    return np.repeat(image, 3, -1)
  dot, walls = image[..., :1], image[..., 1:2] // 2
  return np.concatenate([np.maximum(dot, walls), walls, walls], -1)


def gif(path: str | os.PathLike, frames: np.ndarray, goal: np.ndarray, *, scale: int = 3, every: int = 1,
        ms: int = 60) -> None:
  """An episode, uint8 [T H W C], and beside it the goal [H W C]; `every`-th frames, the last one held."""
  both = np.concatenate([to_rgb(frames[::every]), np.broadcast_to(to_rgb(goal), to_rgb(frames[::every]).shape)], 2)
  images = [Image.fromarray(f).resize((scale * f.shape[1], scale * f.shape[0]), Image.NEAREST) for f in both]
  images[0].save(path, save_all=True, append_images=images[1:], duration=[ms] * (len(images) - 1) + [1000], loop=0)


def landscape(path: str | os.PathLike, energies: np.ndarray, extent: Sequence[float], pictures: np.ndarray,
              goals: np.ndarray) -> None:
  """Energies [K G G] over places, NaN where none can be, beside what the world looks like [K H W C].

  Args:
    extent: least and largest x, then y, of the places. goals: f32 [K 2], marked.
  """
  count = len(energies)
  with rc_context(report.STYLE):
    figure = Figure(figsize=(2.4 * count, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, count, squeeze=False)
    for k in range(count):
      axes[0, k].imshow(to_rgb(pictures[k]))
      axes[1, k].imshow(energies[k], extent=(extent[0], extent[1], extent[3], extent[2]), cmap="viridis_r")
      axes[1, k].plot(*goals[k], "*", color="#d0342c", ms=9)
      for ax in axes[:, k]:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("goal")
    axes[1, 0].set_ylabel("distance to it")
    figure.savefig(path, dpi=150)


def imagined(path: str | os.PathLike, errors: Mapping[str, np.ndarray]) -> None:
  """Latent error against steps imagined, a line each."""
  with rc_context(report.STYLE):
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for name, values in errors.items():
      ax.plot(np.arange(1, len(values) + 1), values, label=name, lw=1.8)
    ax.set_xlabel("steps imagined")
    ax.set_ylabel("distance in latent space")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)
