"""Encoders of whole images by name, under one signature: what methods without masks are built on."""
from collections.abc import Mapping

import jax

from jepa.models import convnet, impala, layers as lib, resnet, vit
from jepa.types import Features, Net, StatefulNet

NAMES = ("convnet", "resnet", "vit")
KINDS = ("impala", "vit")


def make(*, name: str = "vit", **args) -> StatefulNet:
  """apply(params, stats, image [B H W C], train) -> (Features, stats). Names: "vit", "resnet", "convnet"."""
  if name == "convnet":
    return convnet.convnet(**args)
  if name == "resnet":
    return resnet.resnet(**args)
  if name == "vit":
    return _without_stats(vit.encoder(**args), args.get("cls", False))
  raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(NAMES)}")


def vector(*, kind: str = "impala", outputs: int = 512, **args) -> Net:
  """apply(params, image [B H W C]) -> f32 [B outputs], each image by itself: encoders of world models whose
  state is one vector.

  Args:
    kind: "impala", or "vit", whose pooled token a linear map and a LayerNorm follow.
    outputs: width of the vector. args: of impala.impala or of vit.encoder.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(f"encoder kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
  if kind == "impala":
    return impala.impala(outputs=outputs, **args)
  net, out, norm = vit.encoder(**args), lib.net(lib.Dense(outputs)), lib.net(lib.LayerNorm())
  pooled = lambda params, image: of_vit(net.apply(params["vit"], image), args.get("cls", False)).pooled

  def init(key, image):
    k_vit, k_out, k_norm = jax.random.split(key, 3)
    params = {"vit": net.init(k_vit, image)}
    z = pooled(params, image)
    params["out"] = out.init(k_out, z)
    return params | {"norm": norm.init(k_norm, out.apply(params["out"], z))}

  def apply(params, image):
    return norm.apply(params["norm"], out.apply(params["out"], pooled(params, image)))

  return Net(init, apply)


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
