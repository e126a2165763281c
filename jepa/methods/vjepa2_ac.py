"""V-JEPA 2-AC (Assran et al., 2025, arXiv 2506.09985, section 3): the patch features of a frozen encoder,
predicted from actions and states.

  z_t    = LayerNorm(encoder(o_t)), frozen, each frame alone                               [B T N D]
  z^_t+1 = LayerNorm(predictor((a_1, s_1, z_1), ..., (a_t, s_t, z_t)))
  L      = mean |z^_t+1 - z_t+1|  +  mean |z~_t - z_t|, z~ imagined for `rollout` steps from the first frame

The published encoder is V-JEPA 2's; here it is any ViT of this project: `config.init.encoder` is its
workdir. Without one its weights are drawn and stay as they are, which is the floor. The published state is
a robot's pose, known at the start of a plan and then summed up from the actions, as no wall would let it.
Here it is "position", and planning sees pictures only: a linear map of a frame's features, encoded or
imagined, reads it. That map is trained beside, on the true positions, and changes nothing else (but a
clipped norm of all gradients, so do not clip).
"""
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jepa.models import frames, heads
from jepa.types import Features, Method, WorldModel

NAME, PAPER, FAMILY = "V-JEPA 2-AC", "arXiv 2506.09985", "world model"
PREVENTS = "frozen encoder"


def make(*, encoder: Mapping, predictor: Mapping, rollout: int = 2, history: int = 3,
         mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25,
         position_mean: float | Sequence[float] = 0.0, position_std: float | Sequence[float] = 1.0,
         steps: int) -> Method:
  """V-JEPA 2-AC. Batches hold "image" uint8 [B T+1 H W C], "action" f32 [B T A] and "position" f32 [B T+1 P].

  Args:
    encoder: of vit.encoder. predictor: of frames.interleaved.
    rollout: steps of the second term, up to T, their states the true ones (as released).
    history: frames that planning remembers, up to T.
    mean, std: of pixels in [0, 1], by channel, as the encoder was trained.
    position_mean, position_std: of positions.
  """
  del steps
  enc, pred = frames.frozen(encoder=encoder, mean=mean, std=std, norm=True), frames.interleaved(**predictor)

  def init(key, batch):
    if max(rollout, history) >= batch["image"].shape[1]:
      raise ValueError(f"vjepa2_ac: rollout = {rollout} and history = {history} need trajectories of "
                       f"{max(rollout, history) + 1} frames, and these have {batch['image'].shape[1]}")
    k_enc, k_pred, k_read = jax.random.split(key, 3)
    fixed = enc.init(k_enc, batch["image"][:, 0])
    z, a, s = enc.apply(fixed, batch["image"][:, :1]), batch["action"][:, :1], batch["position"][:, :1]
    return {"predictor": pred.init(k_pred, z, a, s),
            "readout": heads.linear(s.shape[-1]).init(k_read, frames.flat(z))}, {"encoder": fixed}

  def loss(params, extra, batch, key):
    z, a = enc.apply(extra["encoder"], batch["image"]), batch["action"].astype(jnp.float32)
    s = (batch["position"] - jnp.asarray(position_mean)) / jnp.asarray(position_std)
    ahead = pred.apply(params["predictor"], z[:, :-1], a, s[:, :-1])
    imagined = jnp.concatenate([z[:, :1], ahead[:, :1]], 1)
    for t in range(2, rollout + 1):
      more = pred.apply(params["predictor"], imagined, a[:, :t], s[:, :t])[:, -1:]
      imagined = jnp.concatenate([imagined, more], 1)
    told = heads.linear(s.shape[-1]).apply(params["readout"], frames.flat(z))
    terms = {"prediction": jnp.abs(ahead - z[:, 1:]).mean(),
             "rollout": jnp.abs(imagined[:, 1:] - z[:, 1:rollout + 1]).mean(),
             "readout": jnp.square(told - s).mean()}
    still = jnp.abs(z[:, 1:] - z[:, :-1]).mean()        # the error of predicting that nothing moves
    return sum(terms.values()), (extra, terms | {"copy_last": still})

  def embed(params, extra, batch) -> Features:
    z = enc.apply(extra["encoder"], batch["image"][:, 0])
    return Features(z.mean(1), z)

  return Method(init, loss, lambda params, extra, step: extra, embed)


def world_model(*, encoder: Mapping, predictor: Mapping, history: int = 3,
                mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25) -> WorldModel:
  """What planning sees; arguments as of `make`. A latent state is a `frames.Window`; its distance is the
  paper's energy, mean |z^ - z| of the newest frames."""
  enc, pred = frames.frozen(encoder=encoder, mean=mean, std=std, norm=True), frames.interleaved(**predictor)
  read = lambda params, z: heads.linear(params["readout"]["bias"].shape[0]).apply(
      params["readout"], frames.flat(z))

  def encode(params, extra, image):
    z = enc.apply(extra["encoder"], image)
    return frames.begin(z, read(params, z), history=history,
                        actions=params["predictor"]["action"]["kernel"].shape[0])

  def predict(params, extra, window, action):
    window = frames.act(window, action)
    z = frames.newest(window, pred.apply(params["predictor"], window.z, window.a, window.s))
    return frames.append(window, z, read(params, z))

  def distance(window, goal):
    return jnp.abs(frames.newest(window, window.z) - frames.newest(goal, goal.z)).mean((1, 2))

  return WorldModel(encode, predict, distance)
