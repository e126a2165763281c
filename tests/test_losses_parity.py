"""Losses and their gradients, with respect to every input, against those of lightly, a PyTorch library. Where
the two write a loss in another way, the comment says by what exact algebra they are the same."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa import peers
from jepa.losses import clustering, contrastive, prediction, reconstruction, redundancy, sigreg

try:
  import torch
  with peers.importing_torchvision():
    from lightly import loss as lightly
    from lightly.loss import swav_loss, visreg_loss
except ImportError as error:
  pytest.skip("parity of losses needs torch, torchvision and lightly: pip install -e '.[parity]' "
              f"(no {error.name})", allow_module_level=True)

KEY = jax.random.key(0)
B, D, N, K = 32, 6, 9, 7                 # images, channels, tokens, prototypes
LARGEST = {}


def normal(*shape, seed=0, scale=1.0):
  return np.float32(scale * np.random.default_rng(seed).normal(size=shape))


def views(v, seed=0):
  """Views [V B D] that resemble each other, channels of different means and deviations."""
  z = 0.6 * normal(1, B, D, seed=seed) + 0.8 * normal(v, B, D, seed=seed + 1)
  return np.float32(z * np.linspace(0.3, 1.5, D) + 0.2)


def compare(name, ours, theirs, *inputs, limit=1e-4):
  """ours and theirs: scalars of the inputs. Differences of the value and of each gradient are relative to the
  largest entry."""
  value, gradients = jax.value_and_grad(ours, argnums=tuple(range(len(inputs))))(*map(jnp.asarray, inputs))
  tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
  out = theirs(*tensors).sum()
  out.backward()
  pairs = [(value, out.detach()), *((g, t.grad) for g, t in zip(gradients, tensors))]
  pairs = [(np.asarray(x, np.float64), y.numpy().astype(np.float64)) for x, y in pairs]
  assert all(np.abs(y).max() > 0 and x.shape == y.shape for x, y in pairs)
  found = [np.abs(x - y).max() / np.abs(y).max() for x, y in pairs]
  LARGEST[name] = max(found[0], LARGEST.get(name, (0, 0))[0]), max(*found[1:], LARGEST.get(name, (0, 0))[1])
  assert max(found) < limit, found


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent(temperature):
  compare("NTXentLoss", lambda a, b: contrastive.nt_xent(a, b, temperature=temperature),
          lightly.NTXentLoss(temperature=temperature), *views(2))


def test_info_nce_with_a_queue():
  """Over five steps that fill and refill the bank: lightly writes the newest keys over the oldest in a ring,
  ours go in front and the last leave, so that the negatives are the same set."""
  torch.manual_seed(0)
  theirs = lightly.NTXentLoss(temperature=0.07, memory_bank_size=(3 * B, D))
  bank = theirs.memory_bank.bank.numpy().copy()
  queue = jnp.concatenate(np.split(bank, 3)[::-1])               # the ring overwrites its first rows first
  for step in range(5):
    q, k = views(2, seed=10 * step)
    compare("NTXentLoss, memory bank",
            lambda q, k: contrastive.info_nce(q, k, temperature=0.07, queue_QD=queue), theirs, q, k)
    queue = jnp.concatenate([prediction.unit(k), queue[:-B]])


def test_info_nce_of_a_batch():
  """lightly has none: algorithm 1 of MoCo v3 (arXiv 2104.02057) in torch."""
  unit = torch.nn.functional.normalize
  compare("MoCo v3", lambda q, k: 0.4 * contrastive.info_nce(q, k, temperature=0.2),
          lambda q, k: 0.4 * torch.nn.functional.cross_entropy(unit(q) @ unit(k).T / 0.2, torch.arange(B)),
          *views(2))


def test_cross_entropy_of_smoothed_labels():
  label = np.random.default_rng(0).integers(0, K, B)
  compare("torch cross_entropy, smoothed", lambda x: contrastive.cross_entropy(x, label, 0.1),
          lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(label), label_smoothing=0.1),
          normal(B, K, scale=3))


def test_barlow_twins():
  compare("BarlowTwinsLoss", lambda a, b: sum(redundancy.barlow_twins(a, b, off_diagonal=0.0051)),
          lightly.BarlowTwinsLoss(lambda_param=0.0051), *views(2))


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_vicreg(scale):
  """Theirs takes the mean of (a - b)^2; ours the mean squared distance of a and b to their mean, which is
  (a - b)^2 / 4. The variance is halved over views and the covariance is not, in both."""
  def ours(a, b):
    varied = (redundancy.variance(a) + redundancy.variance(b)) / 2
    covaried = redundancy.covariance(a) + redundancy.covariance(b)
    return 25 * 4 * redundancy.invariance(jnp.stack([a, b])) + 25 * varied + covaried
  compare("VICRegLoss", ours, lightly.VICRegLoss(), *(scale * views(2)))


def test_normalised_mse():
  """Theirs is the mean of -cos, BYOL's is that of 2 - 2 cos."""
  theirs = lightly.NegativeCosineSimilarity()
  compare("NegativeCosineSimilarity", prediction.normalised_mse, lambda a, b: 2 + 2 * theirs(a, b), *views(2))


def test_dino():
  """Two global views and three local ones, three steps. The centre of a step is that of the steps before, and
  theirs is moved after the loss. In both the gradient reaches the teacher's scores: nothing here stops it."""
  theirs = lightly.DINOLoss(output_dim=K, teacher_temp=0.07, student_temp=0.1, center_momentum=0.9)
  centre = np.zeros(K, np.float32)
  for step in range(3):
    teacher, student = normal(2, B, K, seed=2 * step), normal(5, B, K, seed=2 * step + 1)
    teacher += np.linspace(-1, 1, K, dtype=np.float32)           # a mean to be centred
    compare("DINOLoss", lambda t, s: clustering.across_views(jax.nn.softmax((t - centre) / 0.07), s / 0.1),
            lambda t, s: theirs(list(t), list(s)), 0.3 * teacher, 0.3 * student)
    centre = 0.9 * centre + 0.1 * (0.3 * teacher).mean((0, 1))


def test_ibot_patches():
  theirs = lightly.IBOTPatchLoss(output_dim=K, teacher_temp=0.07, student_temp=0.1)
  hidden = np.random.default_rng(0).random((B, N)) < 0.4
  hidden[:, 0], hidden[:4] = True, False
  mask = torch.tensor(hidden.reshape(B, 3, 3))
  def published(t, s):
    pick = lambda x: x.reshape(B, 3, 3, K)[mask]
    return theirs(pick(t), pick(s), mask)
  centre = np.zeros(K, np.float32)
  for step in range(2):
    teacher, student = 0.3 * normal(2, B, N, K, seed=step)
    compare("IBOTPatchLoss", lambda t, s: clustering.tokens(
        jax.nn.softmax((t - centre) / 0.07), s / 0.1, hidden), published, teacher, student)
    centre = 0.1 * teacher[hidden].mean(0)


def test_sinkhorn():
  scores = np.asarray(prediction.unit(normal(B, K)))
  for iterations in (1, 3, 20):
    expected = swav_loss.sinkhorn(torch.tensor(scores), iterations=iterations, epsilon=0.05).numpy()
    codes = clustering.sinkhorn(scores, iterations=iterations)
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("local", [0, 3])
def test_swav(local):
  """No gradient goes through the codes, theirs by no_grad."""
  theirs = lightly.SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
  scores = np.asarray(prediction.unit(normal(2 + local, B, K, seed=local)))
  def ours(s):
    codes = jax.lax.stop_gradient(jax.vmap(clustering.sinkhorn)(s[:2]))
    return clustering.across_views(codes, s / 0.1)
  compare("SwaVLoss", ours, lambda s: theirs(list(s[:2]), list(s[2:])), scores)


def drawn(monkeypatch, slices):
  """Both sketch with the same directions."""
  unit = torch.tensor(np.asarray(sigreg.directions(KEY, D, slices)))
  monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: unit.clone())


def test_sigreg_and_lejepa(monkeypatch):
  drawn(monkeypatch, 16)
  one = lightly.SIGReg(num_vectors=16)
  compare("SIGReg", lambda z: sigreg.sigreg(z, KEY, slices=16), one, views(1)[0])
  theirs = lightly.LeJEPALoss(lambda_param=0.05, sigreg_num_vectors=16)
  def ours(far, near):
    z = jnp.concatenate([far, near])
    agree = jnp.square(z - far.mean(0)).mean()
    return 0.95 * agree + 0.05 * jax.vmap(lambda v: sigreg.sigreg(v, KEY, slices=16))(z).mean()
  compare("LeJEPALoss", ours, lambda far, near: theirs(local_proj=near, global_proj=far),
          views(2), views(3, seed=7))


def test_visreg(monkeypatch):
  """Theirs adds eps to the deviation that it divides by, ours is a floor; neither is felt at 1e-9."""
  drawn(monkeypatch, 16)
  z = views(1)[0]
  ours = lambda i: lambda z: redundancy.gaussian_shape(z, KEY, slices=16, eps=1e-9)[i]
  compare("VISReg, centre", ours(0), visreg_loss.visreg_center_loss, z)
  compare("VISReg, scale", ours(1), visreg_loss.visreg_scale_loss, z)
  compare("VISReg, shape", ours(2), lambda z: visreg_loss.visreg_shape_loss(z, 16, eps=1e-9), z)


@pytest.mark.parametrize("v,iterations", [(2, 1), (3, 2)])
def test_w_mse(monkeypatch, v, iterations):
  orders = [torch.tensor(np.asarray(jax.random.permutation(k, B))) for k in jax.random.split(KEY, iterations)]
  monkeypatch.setattr(torch, "randperm", lambda n: orders.pop(0))
  theirs = lightly.WMSELoss(embedding_dim=D, w_size=16, w_iter=iterations, num_samples=v)
  compare("WMSELoss", lambda z: redundancy.w_mse(z, KEY, size=16, iterations=iterations),
          lambda z: theirs(z.reshape(-1, D)), views(v))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_smooth_l1(beta):
  a, b = 2 * normal(2, B, N, D)
  compare("torch smooth_l1_loss", lambda a, b: prediction.smooth_l1(a, b, np.ones((B, N), bool), beta=beta),
          lambda a, b: torch.nn.functional.smooth_l1_loss(a, b, beta=beta), a, b)


def test_gaussian_kl():
  def theirs(mean, log_variance):
    of = torch.distributions.Normal
    return torch.distributions.kl_divergence(of(mean, (log_variance / 2).exp()), of(0.0, 1.0)).sum(-1).mean()
  compare("torch kl_divergence", reconstruction.gaussian_kl, theirs, *normal(2, B, D))


def test_largest_difference(capsys):
  """Prints what the comparisons of this module found."""
  with capsys.disabled():
    print("\nlargest relative differences from PyTorch (value, gradient):")
    for name, (value, gradient) in LARGEST.items():
      print(f"  {name:<30} {value:.1e}  {gradient:.1e}")
  assert all(max(pair) < 1e-4 for pair in LARGEST.values())
