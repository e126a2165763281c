"""The nouns of the project, and nothing else.

Shape letters used everywhere: B batch, H W C image, N tokens, D width, K tokens kept, M blocks or slices,
V views, T frames, A action.
"""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Params = PyTree
Stats = PyTree
Extra = PyTree
# "image" uint8 [B H W C], "label", "index" int32 [B], "text" int32 [B L]; of trajectories "image" uint8
# [B T H W C], "action" f32 [B T-1 A], "position" f32 [B T P]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]      # f32 scalars


class Net(NamedTuple):
  """A network as two pure functions; Flax stays behind this line."""

  init: Callable[..., Params]       # (key, *inputs) -> params
  apply: Callable[..., Any]         # (params, *inputs) -> outputs


class StatefulNet(NamedTuple):
  """A network that also carries running statistics (BatchNorm); `stats` is {} where it has none."""

  init: Callable[..., tuple[Params, Stats]]     # (key, *inputs) -> (params, stats)
  apply: Callable[..., tuple[Any, Stats]]       # (params, stats, *inputs, train: bool) -> (outputs, stats)


class Features(NamedTuple):
  """What an encoder says of an image."""

  pooled: jax.Array                 # [B D]
  tokens: jax.Array                 # [B N D], row-major over the grid


class Tokens(NamedTuple):
  """A subset of the token grid with a static size; `valid` is False on padding."""

  index: jax.Array                  # int32 [... K], positions in row-major order of the grid
  valid: jax.Array                  # bool  [... K]


class Method(NamedTuple):
  """A paper: everything in which one joint-embedding objective differs from the next, as pure functions."""

  init: Callable[[jax.Array, Batch], tuple[Params, Extra]]                      # trained; not trained
  loss: Callable[[Params, Extra, Batch, jax.Array], tuple[jax.Array, tuple[Extra, Metrics]]]
  post: Callable[[Params, Extra, jax.Array], Extra]                             # after the optimizer: EMA
                                                                                # and the like
  embed: Callable[[Params, Extra, Batch], Features]                             # what evaluation sees


class WorldModel(NamedTuple):
  """What planning sees of a method that predicts the next state from an action: `world_model`, beside `make`
  in its file. A latent state is a pytree of arrays [B ...]."""

  encode: Callable[[Params, Extra, jax.Array], PyTree]            # image [B H W C] -> latent state
  # (latent state, action [B A]) -> the next; standardised actions, but raw ones in Experiment.world
  predict: Callable[[Params, Extra, PyTree, jax.Array], PyTree]
  distance: Callable[[PyTree, PyTree], jax.Array]                 # of two latent states, f32 [B]


class TrainState(NamedTuple):
  """Everything a step reads and writes; saved whole, restored whole."""

  step: jax.Array                   # int32 []
  params: Params                    # trained by the optimizer
  extra: Extra                      # not trained: EMA targets, queues, centres, batch statistics
  opt: PyTree                       # the optimizer's state
  key: jax.Array                    # base PRNG key; a step's key is fold_in(key, step)
