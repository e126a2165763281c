"""Position codes of a token grid: fixed sine-cosine tables and rotary embeddings."""
import jax
import jax.numpy as jnp
import numpy as np


def sincos_2d(width: int, grid: tuple[int, int]) -> np.ndarray:
  """Fixed 2-D sine-cosine positions (MAE, arXiv 2111.06377): f32 [rows * columns, width];
  the first half codes the column.

  Raises:
    ValueError: width is not a multiple of 4.
  """
  if width % 4:
    raise ValueError(f"2-D sine-cosine positions need a width divisible by 4, not {width}")
  rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
  return np.concatenate([_sincos_1d(width // 2, columns.ravel()), _sincos_1d(width // 2, rows.ravel())],
                        -1).astype(np.float32)


def _sincos_1d(width, at):
  frequency = 10000.0 ** -(np.arange(width // 2) / (width / 2))
  phase = at[:, None] * frequency
  return np.concatenate([np.sin(phase), np.cos(phase)], -1)


def rope_2d(index_BN: jax.Array, grid: tuple[int, int], head_width: int,
            theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines [B N 1 head_width / 2] of rotary embeddings (arXiv 2104.09864) on a grid: half of the
  pairs turn with the row, half with the column.

  Raises:
    ValueError: head_width is not a multiple of 4.
  """
  if head_width % 4:
    raise ValueError(f"2-D rotary positions need a head width divisible by 4, not {head_width}")
  frequency = theta ** -(jnp.arange(head_width // 4) / (head_width / 4))
  row, column = jnp.divmod(index_BN, grid[1])
  phase = jnp.concatenate([row[..., None] * frequency, column[..., None] * frequency], -1)[:, :, None]
  return jnp.cos(phase), jnp.sin(phase)


def rope_3d(place_N3: np.ndarray, head_width: int, theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines [1 N 1 head_width / 2] of rotary embeddings by (frame, row, column): a third of the
  pairs turns with each, and what is left over does not turn (V-JEPA 2, arXiv 2506.09985). A token without a
  place in the grid has row and column 0, which turn nothing.

  Raises:
    ValueError: head_width is odd or under 6.
  """
  if head_width % 2 or head_width < 6:
    raise ValueError(f"3-D rotary positions need an even head width of 6 at least, not {head_width}")
  pairs = head_width // 6
  frequency = theta ** -(np.arange(pairs) / pairs)
  phase = (np.asarray(place_N3)[..., None] * frequency).reshape(len(place_N3), 3 * pairs)
  phase = np.pad(phase, ((0, 0), (0, head_width // 2 - 3 * pairs)))[None, :, None].astype(np.float32)
  return jnp.cos(phase), jnp.sin(phase)


def rotate(x_BNHK: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns the channel pairs (k, k + K/2) of queries or keys."""
  cos, sin = (r.astype(x_BNHK.dtype) for r in rope)
  a, b = jnp.split(x_BNHK, 2, -1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
