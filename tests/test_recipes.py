"""The configs of methods at every scale, abstractly, and what is refused before a run starts."""
import jax
import numpy as np
import pytest

from jepa import config as configs, methods, recipes, state as states
from tests import runs

FAMILY = [n for n, method in runs.METHODS.items()
          if method and "recipes.start" in (runs.ROOT / "configs" / f"{n}.py").read_text()]
IMAGES = {"tiny": (16, 16, 3), "digits": (28, 28, 1), "cifar10": (32, 32, 3), "paper": (224, 224, 3)}


def parts(name, arg, **args):
  """(method, abstract batch) of a config, without data or arrays."""
  c = runs.config(name, arg)
  raw = configs.resolve(c.to_dict(), batch=c.batch, examples=50_000, total=100_000)
  make = configs.module(raw["method"], methods.__name__).make
  method = configs.call(make, "config.args", **raw["args"] | args, steps=100_000)
  b = raw["batch"]
  spec = lambda shape, dtype: jax.ShapeDtypeStruct((b, *shape), dtype)
  batch = {"image": spec(IMAGES[arg.split(",")[0]], np.uint8), "label": spec((), np.int32),
           "index": spec((), np.int32)}
  if c.data.source == "captions":
    batch["text"] = spec((c.data.args.length,), np.int32)
  return method, batch


def loss_of(method, batch):
  """Shapes of (loss, (extra, metrics)), and of extra before."""
  params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
  return jax.eval_shape(method.loss, params, extra, batch, jax.random.key(0)), extra


@pytest.mark.parametrize("scale", ["digits", "cifar10", "paper"])
@pytest.mark.parametrize("name", FAMILY)
def test_every_scale_is_whole(name, scale):
  """The state of every scale can be made and its leaves have rules; what is not tiny is not run here."""
  from jepa import optim, sharding
  method, batch = parts(name, scale)
  c = runs.config(name, scale)
  raw = configs.resolve(c.to_dict(), batch=c.batch, examples=50_000, total=100_000)
  tx, _ = configs.call(optim.make, "config.optim", **raw["optim"], steps=100_000)
  two = jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape[1:]), s.dtype), batch)
  state = jax.eval_shape(lambda k, b: states.init(k, b, method=method, tx=tx), jax.random.key(0), two)
  assert sharding.of_state(state, sharding.make_mesh(data=8))
  encoder = sum(x.size for x in jax.tree.leaves(state.params["encoder"]))
  low, high = {"digits": (1e5, 2e5), "cifar10": (5e6, 1.2e7), "paper": (2e7, 9e7)}[scale]
  assert low < encoder < high


@pytest.mark.parametrize("name", [n for n in FAMILY if "none" in runs.config(n).args])
def test_without_its_prevention_a_method_still_has_a_loss(name):
  """`none` takes away the target network, where there is one, and nothing that evaluation needs."""
  (loss, (after, metrics)), extra = loss_of(*parts(name, "tiny,none"))
  assert loss.shape == () and metrics and "target" not in extra
  assert jax.tree.structure(after) == jax.tree.structure(extra)
  assert runs.config(name, "tiny,none").args.none and not runs.config(name).args.none


def test_what_has_a_prevention_can_lose_it():
  """All but reconstruction and labels, which have nothing to prevent."""
  for name in FAMILY:
    module = configs.module(runs.config(name).method, methods.__name__)
    without = getattr(module, "PREVENTS", "labels").startswith(("nothing", "labels"))
    assert ("none" in runs.config(name).args) != without, name


REFUSED = [
    ("wmse", dict(size=12, eps=0.0), "batch of 16 does not split"),
    ("wmse", dict(size=32), "batch of 16 does not split"),
    ("wmse", dict(size=4, eps=0.0), "does not exceed the embedding's width 4"),
    ("mocov2", dict(queue=40), "queue = 40 is no multiple of the batch of 16; choose"),
    ("mocov2", dict(projector=dict(widths=())), "widths is empty"),
    ("swav", dict(prototypes=17), "prototypes = 17 exceeds the batch of 16"),
    ("mae", dict(encoder=dict(name="resnet")), "MAE drops patches, which needs name='vit'"),
    ("aim", dict(encoder=dict(width=16, depth=1, heads=2, patch=4, cls=True)), "no place for a class token"),
    ("clip", dict(loss="triplet"), "'triplet' is unknown; choose one of siglip, clip"),
    ("clip", dict(names=()), "needs captions"),
    ("ijepa", dict(target_norm="batch"), "choose one of layer, centred"),
    ("bigan", dict(discriminator=dict(name="convnet")), "use name='vit'"),
    ("dino", dict(views=dict(kind="dino", size=16, small=True, local_count=2, local_size=32)),
     "local_size = 32"),
    ("vae", dict(encoder=dict(name="vit", width=16, depth=1, heads=2, patch=5)), "not divisible into patches"),
    ("byol", dict(projector=dict(widths=(8,), last="group")), "last 'group' is unknown"),
    ("simclr", dict(temprature=0.1), "temprature is not an option; did you mean 'temperature'"),
]


@pytest.mark.parametrize("name,args,told", REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_configuration_says_what_to_change(name, args, told):
  with pytest.raises(ValueError, match=told):
    loss_of(*parts(name, "tiny", **args))


@pytest.mark.parametrize("arg", ["huge", "digits,tiny", "small,tiny", "digits,nothing"])
def test_a_wrong_argument_lists_scales_and_flags(arg):
  with pytest.raises(ValueError, match="write one scale of cifar10, paper, digits, tiny and flags of none"):
    recipes.start(arg)


@pytest.mark.parametrize("name,told", [
    ("compare", "write digits .default., cifar10 or tiny"), ("collapse", "write digits .default. or tiny"),
    ("lewm_two_rooms", "write random .default., fixed or tiny")])
def test_a_wrong_argument_lists_what_there_is(name, told):
  with pytest.raises(ValueError, match=f"argument 'huge': {told}"):
    runs.config(name, "huge")


@pytest.mark.parametrize("name", ["simclr", "collapse"])
def test_the_digits_were_called_small(name):
  """Old commands stay."""
  assert runs.config(name, "small").to_dict() == runs.config(name, "digits").to_dict()


@pytest.mark.parametrize("study", runs.STUDIES)
@pytest.mark.parametrize("arg", [None, "tiny"])
def test_studies_are_whole(study, arg):
  from jepa import study as studies
  c = runs.config(study, arg)
  found, listed = studies.read(c)
  assert len(listed) == len(c.runs) >= 2 and found.question.endswith("?")
  if arg == "tiny":     # one of them builds
    run = next(iter(listed.values()))
    assert studies.plan(found, run).steps >= 1


def test_the_comparison_is_of_methods_that_have_classes_to_tell():
  """A fork's method need not be in it."""
  compared = {r.config.method for r in runs.config("compare", None).runs.values()}
  assert len(compared) > 20 and compared <= set(configs.names("jepa.methods"))
  assert not [m for m in compared if configs.module(m, "jepa.methods").FAMILY == "world model"]


def test_the_same_backbone_for_all_in_the_comparison():
  encoders = {str(sorted(r.config.args.encoder.to_dict().items() - {("name", "vit")}))
              for r in runs.config("compare", None).runs.values()}
  assert len(encoders) == 1, encoders
