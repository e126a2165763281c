"""Pictures of planning: episodes as GIFs, imagined against real."""
from collections.abc import Mapping
import os

from matplotlib import rc_context, ticker
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


def imagined(path: str | os.PathLike, errors: Mapping[str, np.ndarray]) -> None:
  """Latent error against steps imagined, a line each; logarithmic, since an untrained model may diverge."""
  with rc_context(report.STYLE):
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
