r"""Times training steps: python -m jepa.bench [--sizes=small,digits] [--peer='python peer.py']
[--out=bench.json]

Prints one table and one JSON line. A row is a train step as the loop runs it (masks, EMA, optimizer, logging
scalars), at a size of `SIZES`. With --peer, a command that prints a JSON line with "img_per_s" and takes
--image, --patch, --width, ... (the options of `peer_options`) is run in turn with ours, each in a process of
its own, and the ratio is the median of pairs.

With --augmentation instead: a small two-view step that augments on the device, in turn with the same step fed
by torchvision, the usual way (pip install -e '.[parity]').
"""
import functools
import json
import shlex
import statistics
import subprocess
import sys
import time

from absl import app, flags
import jax
import numpy as np
from PIL import Image

from jepa import command, experiment, logs, peers, sharding
from jepa.config import base
from jepa.data import pipeline
from jepa.methods import lejepa

# The sizes of an I-JEPA step; keep and target are tokens.
SIZES = {
    "small": dict(image=32, patch=4, width=192, depth=12, heads=3, pred_width=96, pred_depth=4, pred_heads=3,
                  keep=24, target=12, blocks=4, batch=64),
    "digits": dict(image=28, patch=4, width=128, depth=4, heads=4, pred_width=64, pred_depth=2, pred_heads=2,
                   keep=20, target=8, blocks=4, batch=128),
    "B/16": dict(image=224, patch=16, width=768, depth=12, heads=12, pred_width=384, pred_depth=12,
                 pred_heads=12, keep=85, target=36, blocks=4, batch=128),
}


# Encoders of the augmentation benchmark: the smaller the step, the more its input weighs. "vit" is the one
# that the comparison of methods shares, with 16 patches of 8 pixels.
NETS = {
    "quickstart": dict(name="convnet", widths=(32, 64, 128, 256), strides=(2, 2, 1, 2), kernels=(5, 3, 3, 3)),
    "half": dict(name="convnet", widths=(16, 32, 64, 128), strides=(2, 2, 2, 2), kernels=(3, 3, 3, 3)),
    "vit": dict(name="vit", width=64, depth=3, heads=2, patch=8)}


def config(size: str, *, dtype: str = "float32", steps: int = 100):
  """The config of a size, on synthetic images."""
  s = SIZES[size]
  tokens = (s["image"] // s["patch"]) ** 2
  c = base()
  c.total, c.batch, c.method = f"{steps} steps", s["batch"], "ijepa"
  c.data = dict(source="synthetic", args=dict(n=4 * s["batch"], size=s["image"], channels=3, classes=10),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=dict(width=s["width"], depth=s["depth"], heads=s["heads"], patch=s["patch"], dtype=dtype),
      predictor=dict(width=s["pred_width"], depth=s["pred_depth"], heads=s["pred_heads"], dtype=dtype),
      masks=dict(blocks=s["blocks"], target_scale=(s["target"] / tokens,) * 2, target_aspect=(0.75, 1.5),
                 keep=s["keep"] / tokens))
  return c


def peer_options(size: str, dtype: str) -> list[str]:
  """The same size as options of a peer."""
  return [f"--{k.replace('_', '-')}={v}" for k, v in SIZES[size].items()] + [f"--dtype={dtype}"]


def step_times(size: str, *, dtype: str, steps: int) -> dict:
  """Median seconds of a step, images/s, compile seconds, input wait, FLOPs and MFU."""
  exp = experiment.build(config(size, dtype=dtype))
  on_batch = sharding.of_batch(exp.mesh)
  with jax.set_mesh(exp.mesh):
    start = time.perf_counter()
    step = jax.jit(exp.step, in_shardings=(exp.shardings, on_batch),
                   out_shardings=(exp.shardings, sharding.replicated(exp.mesh)),
                   donate_argnums=0).lower(exp.abstract, exp.batch).compile()
    compile_s = time.perf_counter() - start
    state = experiment.initial_state(exp)
    data = pipeline.prefetch(pipeline.train(exp.train, batch=exp.config["batch"], seed=0),
                             lambda b: pipeline.put(b, on_batch), depth=2)
    times = []
    for i in range(steps + 2):
      if i == 2:                # two steps to warm up
        waited = data.waited
      start = time.perf_counter()
      state, metrics = step(state, next(data))
      jax.block_until_ready(state)
      times.append(time.perf_counter() - start)
    waited = data.waited - waited
    data.close()
  times = times[2:]
  median, operations, peak = (statistics.median(times), logs.operations(exp.step, exp.abstract, exp.batch),
                              logs.peak(jax.devices()[0]))
  return {"size": size, "dtype": dtype, "batch": exp.config["batch"], "step_s": median,
          "img_per_s": exp.config["batch"] / median,
          "compile_s": compile_s, "input_wait": waited / sum(times), "flops_per_step": operations,
          "gflops_per_s": operations / median / 1e9,
          "mfu": operations / median / peak / jax.device_count() if peak else None,
          "loss": float(metrics["loss"])}


def against(size: str, peer: str, *, dtype: str, steps: int, rounds: int) -> dict:
  """Our step and the peer's in turn, in fresh processes."""
  ours = [sys.executable, "-m", "jepa.bench", f"--sizes={size}", f"--dtype={dtype}", f"--steps={steps}",
          "--json_only"]
  theirs = shlex.split(peer) + peer_options(size, dtype) + [f"--steps={steps}"]
  read = lambda command: json.loads(
      subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1])
  pairs = []
  for i in range(rounds):
    a, b = read(ours)["rows"][0], read(theirs)
    pairs.append((a["img_per_s"], b["img_per_s"]))
    print(f"{size} round {i + 1}/{rounds}: ours {pairs[-1][0]:.1f} images/s, peer {pairs[-1][1]:.1f}, "
          f"ratio {pairs[-1][0] / pairs[-1][1]:.2f}",
          file=sys.stderr, flush=True)
  ratios = [a / b for a, b in pairs]
  return a | {"img_per_s": statistics.median(p[0] for p in pairs),
              "peer_img_per_s": statistics.median(p[1] for p in pairs),
              "ratio": statistics.median(ratios), "ratios": [round(r, 3) for r in ratios]}


def augmentation(net: str, *, batch: int, steps: int, rounds: int) -> dict:
  """images/s of a LeJEPA step (an encoder of `NETS`, SimCLR's views of 32 x 32 pixels without blur) that
  augments on the device, and of the same step fed with two ready views by torchvision in two workers.

  They take turns, `rounds` of `steps` each; the result has medians, and ratios ours / torchvision's by round.
  """
  torchvision_transforms()                    # says what is missing before anything compiles
  from torch.utils.data import DataLoader
  c = base()
  c.total, c.batch, c.method = f"{steps} steps", batch, "lejepa"
  c.data = dict(source="synthetic", args=dict(n=4 * batch, size=32, channels=3, classes=10),
                train="train", test="test", workers=0, prefetch=2)
  c.args = dict(
      encoder=NETS[net], projector=dict(widths=(512, 64)), slices=256,
      views=dict(kind="simclr", size=32, small=True))
  exp = experiment.build(c)
  plain = lejepa.make(**exp.config["args"] | {"views": dict(kind="given")}, steps=exp.total)

  pictures = [Image.fromarray(image) for image in exp.train.arrays["image"]]
  ahead = 2 * 2             # two workers with two batches each: still at work when the last timed step ends
  loader = DataLoader(
      [pictures[i % len(pictures)] for i in range((steps + 2 + ahead) * batch)], batch_size=batch,
      num_workers=2, collate_fn=_two_views, persistent_workers=True, multiprocessing_context="spawn")
  on_batch, speeds = sharding.of_batch(exp.mesh), []
  put = lambda b: pipeline.put(b, on_batch)
  ours = lambda: pipeline.prefetch(pipeline.train(exp.train, batch=batch, seed=0), put, depth=2)

  def theirs():
    batches = iter(loader)
    try:
      yield from (put({"image": views}) for views in batches)
    finally:
      for _ in batches:     # no worker works in the other's turn
        pass

  pairs = (exp.step, ours), (functools.partial(exp.step, method=plain), theirs)

  with jax.set_mesh(exp.mesh):
    compiled = [jax.jit(step, in_shardings=(exp.shardings, on_batch), donate_argnums=0,
                        out_shardings=(exp.shardings, sharding.replicated(exp.mesh))) for step, _ in pairs]
    state = experiment.initial_state(exp)
    for i in range(rounds):
      speeds.append([])
      for step, (_, feed) in zip(compiled, pairs):
        data = feed()
        for k in range(steps + 2):
          if k == 2:            # two steps to compile and to fill the queues
            start = time.perf_counter()
          state, _ = step(state, next(data))
          jax.block_until_ready(state)
        speeds[-1].append(batch * steps / (time.perf_counter() - start))
        data.close()
      print(f"{net} round {i + 1}/{rounds}: on the device {speeds[-1][0]:.1f} images/s, torchvision "
            f"{speeds[-1][1]:.1f}, ratio {speeds[-1][0] / speeds[-1][1]:.2f}", file=sys.stderr, flush=True)
  ratios = [a / b for a, b in speeds]
  return {"net": net, "batch": batch, "img_per_s": statistics.median(a for a, _ in speeds),
          "torchvision_img_per_s": statistics.median(b for _, b in speeds),
          "ratio": statistics.median(ratios), "ratios": [round(r, 3) for r in ratios]}


def torchvision_transforms():
  """torchvision.transforms.

  Raises:
    ImportError: says what to install.
  """
  try:
    with peers.importing_torchvision():
      from torchvision import transforms
  except ImportError as error:
    raise ImportError("--augmentation compares with torchvision: pip install -e '.[parity]'") from error
  return transforms


@functools.cache
def _simclr_transform():
  t = torchvision_transforms()
  return t.Compose([
      t.RandomResizedCrop(32, scale=(0.08, 1.0)), t.RandomHorizontalFlip(),
      t.RandomApply([t.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), t.RandomGrayscale(p=0.2)])


def _two_views(pictures):
  """PIL images -> uint8 [B 2 32 32 3]; runs in the worker processes, which is why it is here."""
  return np.stack([[np.asarray(_simclr_transform()(p)) for _ in range(2)] for p in pictures])


def compile_time(arch: str) -> dict:
  """Seconds to trace and compile the published I-JEPA step of `arch` for one device; no array is made."""
  from jepa import state as states, optim
  from jepa.methods import ijepa
  variant, patch = arch.split("/")
  method = ijepa.make(encoder=dict(variant=variant, patch=int(patch), dtype="bfloat16"),
                      predictor=dict(width=384, depth=12, heads=16, dtype="bfloat16"), steps=1000)
  tx, _ = optim.make(lr=dict(value=1e-3), weight_decay=0.05, steps=1000)
  batch = {"image": jax.ShapeDtypeStruct((8, 224, 224, 3), np.uint8)}
  abstract = jax.eval_shape(lambda k, b: states.init(k, b, method=method, tx=tx), jax.random.key(0), batch)
  start = time.perf_counter()
  lowered = jax.jit(lambda s, b: states.train_step(s, b, method=method, tx=tx)).lower(abstract, batch)
  traced = time.perf_counter() - start
  lowered.compile()
  return {"arch": arch, "trace_s": traced, "compile_s": time.perf_counter() - start - traced}


def table(rows: list[dict]) -> str:
  """The rows as text."""
  head = (f"{'size':<8} {'dtype':<9} {'batch':>5} {'ms a step':>10} {'images/s':>9} {'peer':>9} {'ratio':>6} "
          f"{'GFLOP/s':>9} {'MFU':>6} {'wait':>6} {'compile s':>9}")
  cell = lambda v, form: "-" if v is None else format(v, form)
  return "\n".join([head, "-" * len(head)] + [
      f"{r['size']:<8} {r['dtype']:<9} {r['batch']:>5} {1e3 * r['step_s']:>10.1f} {r['img_per_s']:>9.1f} "
      f"{cell(r.get('peer_img_per_s'), '.1f'):>9} {cell(r.get('ratio'), '.2f'):>6} {r['gflops_per_s']:>9.1f} "
      f"{cell(r['mfu'], '.1%'):>6} {r['input_wait']:>6.1%} {r['compile_s']:>9.1f}" for r in rows])


_SIZES = flags.DEFINE_list("sizes", ["small", "digits"], f"Which of {', '.join(SIZES)}.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the compute.")
_STEPS = flags.DEFINE_integer("steps", 10, "Timed steps, after two to warm up.", lower_bound=1)
_PEER = flags.DEFINE_string("peer", "", "A command to run in turn with ours at the same sizes.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "With --peer: pairs of processes.", lower_bound=1)
_COMPILE = flags.DEFINE_string("compile", "",
                               "Also time compilation of the published step of an architecture, as in H/14.")
_AUGMENTATION = flags.DEFINE_bool("augmentation", False, "Time augmentation against torchvision's instead.")
_OUT = flags.DEFINE_string("out", "", "Also write the JSON there.")
_JSON_ONLY = flags.DEFINE_bool("json_only", False, "Print no table.")


def main() -> None:
  """The entry point; see the module's docstring."""
  unknown = [s for s in _SIZES.value if s not in SIZES]
  if unknown:
    raise app.UsageError(f"unknown sizes {', '.join(unknown)}; choose among {', '.join(SIZES)}")
  if _AUGMENTATION.value:
    rows = [augmentation(n, batch=256, steps=_STEPS.value, rounds=_ROUNDS.value) for n in NETS]
    _write({"facts": logs.facts(), "augmentation": rows})
    return
  one = lambda s: (against(s, _PEER.value, dtype=_DTYPE.value, steps=_STEPS.value, rounds=_ROUNDS.value)
                   if _PEER.value else step_times(s, dtype=_DTYPE.value, steps=_STEPS.value))
  result = {"facts": logs.facts(), "rows": [one(s) for s in _SIZES.value]}
  if _COMPILE.value:
    result["compile"] = compile_time(_COMPILE.value)
  if not _JSON_ONLY.value:
    print(table(result["rows"]))
    if _COMPILE.value:
      print(f"\n{_COMPILE.value}: traced in {result['compile']['trace_s']:.1f} s, "
            f"compiled in {result['compile']['compile_s']:.1f} s")
  _write(result)


def _write(result):
  text = json.dumps(result)
  print(text)
  if _OUT.value:
    with open(_OUT.value, "w") as f:
      f.write(text + "\n")


if __name__ == "__main__":
  command.run(main)
