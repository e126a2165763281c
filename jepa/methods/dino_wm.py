"""DINO-WM (Zhou et al., 2024, arXiv 2411.04983): the patch features of a frozen encoder, predicted from a
short history of them.

  z_t   = encoder(o_t), frozen                                                             [B T N D]
  x_t   = [z_t, proprio(s_t), action(a_t)], the embeddings repeated for every token        [B T N D+P+A]
  y^_t+1 = predictor(x_1..t), tokens see all of their frame and of those before, its channels but A
  L     = mean |y^_t+1 - [z_t+1, sg proprio(s_t+1)]|^2

The published encoder is DINOv2; here it is any ViT of this project: `config.init.encoder` is its workdir.
Without one its weights are drawn and stay as they are, which is the floor.
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa.models import frames, heads
from jepa.types import Features, Method, WorldModel

NAME, PAPER, FAMILY = "DINO-WM", "arXiv 2411.04983", "world model"
PREVENTS = "frozen encoder"


def make(*, encoder: Mapping, predictor: Mapping, action: int = 10, proprio: int = 0, alpha: float = 1.0,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         position_mean: float | Sequence[float] = 0.0, position_std: float | Sequence[float] = 1.0,
         steps: int) -> Method:
  """DINO-WM. Batches hold "image" uint8 [B T+1 H W C], "action" f32 [B T A] and, for proprioception,
  "position" f32 [B T+1 P], T the predictor's history.

  Args:
    encoder: of vit.encoder. predictor: of frames.joined. action: width of the action's embedding.
    proprio: width of the position's, 10 as published; 0: none. Planning sees pictures only, so a linear map
      of the first frame's features stands for its position; it is trained beside, on the true one, and
      changes nothing else (but a clipped norm of all gradients, so do not clip).
    alpha: weight of proprioception in the planner's distance.
    mean, std: of pixels in [0, 1], by channel, as the encoder was trained.
    position_mean, position_std: of positions.
  """
  del alpha, steps
  enc, pred = frames.frozen(encoder=encoder, mean=mean, std=std), frames.joined(**predictor)

  def init(key, batch):
    k_enc, k_pred, k_action, k_proprio, k_read = jax.random.split(key, 5)
    fixed = enc.init(k_enc, batch["image"][:, 0])
    z, a = enc.apply(fixed, batch["image"][:, :1]), batch["action"][:, :1]
    params = {"action": heads.linear(action).init(k_action, a)}
    s = jnp.zeros((*z.shape[:2], 0))
    if proprio:
      s = batch["position"][:, :1]
      params["readout"] = heads.linear(s.shape[-1]).init(k_read, frames.flat(z))
      params["proprio"] = heads.linear(proprio).init(k_proprio, s)
      s = heads.linear(proprio).apply(params["proprio"], s)
    return params | {"predictor": pred.init(k_pred, _tokens(params, z, s, a))}, {"encoder": fixed}

  def loss(params, extra, batch, key):
    z, a = enc.apply(extra["encoder"], batch["image"]), batch["action"].astype(jnp.float32)
    s, metrics = jnp.zeros((*z.shape[:2], 0)), {}
    if proprio:
      position = (batch["position"] - jnp.asarray(position_mean)) / jnp.asarray(position_std)
      s = heads.linear(proprio).apply(params["proprio"], position)
      told = heads.linear(position.shape[-1]).apply(params["readout"], frames.flat(z))
      metrics["readout"] = jnp.square(told - position).mean()
    ahead = pred.apply(params["predictor"], _tokens(params, z[:, :-1], s[:, :-1], a))
    goal = _tokens(None, z[:, 1:], jax.lax.stop_gradient(s[:, 1:]), None)
    error = jnp.square(ahead[..., :goal.shape[-1]] - goal)
    still = jnp.square(z[:, 1:] - z[:, :-1]).mean()     # the error of predicting that nothing moves
    metrics |= {"prediction": error[..., :z.shape[-1]].mean(), "copy_last": still}
    return error.mean() + metrics.get("readout", 0.0), (extra, metrics)

  def embed(params, extra, batch) -> Features:
    z = enc.apply(extra["encoder"], batch["image"][:, 0])
    return Features(z.mean(1), z)

  return Method(init, loss, lambda params, extra, step: extra, embed)


def world_model(*, encoder: Mapping, predictor: Mapping, proprio: int = 0, alpha: float = 1.0,
                mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25) -> WorldModel:
  """What planning sees; arguments as of `make`. A latent state is a `frames.Window`; distances are of its
  newest frame."""
  enc, pred = frames.frozen(encoder=encoder, mean=mean, std=std), frames.joined(**predictor)

  def encode(params, extra, image):
    z = enc.apply(extra["encoder"], image)
    s = jnp.zeros((len(z), 0))
    if proprio:
      told = heads.linear(params["readout"]["bias"].shape[0]).apply(params["readout"], frames.flat(z))
      s = heads.linear(proprio).apply(params["proprio"], told)
    return frames.begin(z, s, history=predictor.get("history", 3),
                        actions=params["action"]["kernel"].shape[0])

  def predict(params, extra, window, action):
    window = frames.act(window, action)
    x = _tokens(params, window.z, window.s, window.a)
    ahead = frames.newest(window, pred.apply(params["predictor"], x))
    z, s = ahead[..., :window.z.shape[-1]], ahead[..., window.z.shape[-1]:]
    return frames.append(window, z, s[..., :proprio].mean(1))

  def distance(window, goal):
    apart = lambda name: jnp.square(frames.newest(window, getattr(window, name))
                                    - frames.newest(goal, getattr(goal, name)))
    value = apart("z").mean((1, 2))
    return value + alpha * apart("s").mean(-1) if proprio else value

  return WorldModel(encode, predict, distance)


def _tokens(params, z, s, a):
  """Features [B T N D] and, beside them, what belongs to their frame: s [B T P] as it is, a [B T A] embedded.
  """
  beside = [s]
  if a is not None:
    beside.append(heads.linear(params["action"]["bias"].shape[0]).apply(params["action"], a))
  every = lambda x: jnp.broadcast_to(x[:, :, None], (*z.shape[:3], x.shape[-1]))
  return jnp.concatenate([z, *map(every, beside)], -1)
