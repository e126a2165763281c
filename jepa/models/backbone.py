"""Encoders of whole images by name, under one signature: what methods without masks are built on."""
from collections.abc import Mapping

from jepa.models import convnet, resnet, vit
from jepa.types import Features, StatefulNet

NAMES = ("convnet", "resnet", "vit")


def make(*, name: str = "vit", **args) -> StatefulNet:
  """apply(params, stats, image [B H W C], train) -> (Features, stats). Names: "vit", "resnet", "convnet"."""
  if name == "convnet":
    return convnet.convnet(**args)
  if name == "resnet":
    return resnet.resnet(**args)
  if name == "vit":
    return _without_stats(vit.encoder(**args), args.get("cls", False))
  raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(NAMES)}")


def of_vit(tokens, cls: bool) -> Features:
  """What leaves a ViT as Features: pooled is its class token, or the mean of its tokens."""
  return Features(tokens[:, 0], tokens[:, 1:]) if cls else Features(tokens.mean(1), tokens)


def vit_args(encoder: Mapping, needs: str) -> dict:
  """Keyword arguments of vit.encoder, of those of `make`, for methods that act on tokens.

  Raises:
    ValueError: the backbone is no ViT.
  """
  if encoder.get("name", "vit") != "vit":
    raise ValueError(f"config.args.encoder.name = {encoder['name']!r}: {needs}, which needs name='vit' "
                     "(patch, width, depth, heads)")
  return {k: v for k, v in encoder.items() if k != "name"}


def _without_stats(net, cls) -> StatefulNet:
  def apply(params, stats, image, train):
    del train
    return of_vit(net.apply(params, image), cls), stats
  return StatefulNet(lambda key, image: (net.init(key, image), {}), apply)
