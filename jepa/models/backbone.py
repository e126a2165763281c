"""Encoders of whole images by name, under one signature: what methods without masks are built on."""
from jepa.models import convnet, vit
from jepa.types import Features, StatefulNet


def make(*, name: str, **args) -> StatefulNet:
  """apply(params, stats, image [B H W C], train) -> (Features, stats). Names: "vit", "convnet"."""
  if name == "convnet":
    return convnet.convnet(**args)
  if name == "vit":
    return _without_stats(vit.encoder(**args))
  raise ValueError(f"backbone {name!r} is unknown; choose one of convnet, vit")


def _without_stats(net) -> StatefulNet:
  def apply(params, stats, image, train):
    del train
    tokens = net.apply(params, image)
    return Features(tokens.mean(1), tokens), stats
  return StatefulNet(lambda key, image: (net.init(key, image), {}), apply)
