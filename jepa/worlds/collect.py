r"""Writes trajectories of a world to a file: python -m jepa.worlds.collect --world=two_rooms --episodes=1000
--length=91 --path=runs/data/two_rooms.npz [--world_set=random=True] [--seed=0]

Native worlds (jepa/worlds) act by their published behaviour: episode i is trajectory i of the source "world"
with that seed. pusht_gym acts by the native PushT's behaviour, gymnasium:ID by smoothed random actions. The
file is what the source "trajectories" reads, a compressed .npz of

  image         uint8 [S H W C]     S = episodes * length
  action        f32 [S A]           taken at that frame; that of an episode's last frame is zero
  state         f32 [S P]           positions; absent where an environment observes its picture alone
  episode_ends  int64 [E]           E = episodes, or more: an environment that ends an episode early begins
                                    another, and the last one is cut where `length` frames are full
  meta          str                 JSON: world, version, args, seed, length, episodes

Frames are compressed as they come, so that memory does not grow with S. The file appears when it is complete:
an interrupt or a full disk leaves nothing, or what was there. The same arguments give the same arrays.
"""
import argparse
from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import os
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np
from tqdm import tqdm

from jepa import command, config, worlds
from jepa.worlds.host import HostWorld, generator

CHUNK = 16                          # episodes of a native world in one compiled call
LEVEL = 3                           # of compression; 9 is the densest


class Piece(NamedTuple):
  """Some frames, in order."""

  image: np.ndarray                 # uint8 [n H W C]
  action: np.ndarray                # f32 [n A]
  state: np.ndarray                 # f32 [n P]
  ends: list[int]                   # ascending, the last one n


def collect(path: str | os.PathLike, name: str, args: Mapping[str, Any] = {}, *, episodes: int, length: int,
            seed: int = 0) -> int:
  """Writes `episodes` episodes of `length` frames of a world; bytes of the file.

  Raises:
    ValueError: a path that is no .npz, fewer than two frames, and what making the world raises.
    OSError: the file cannot be written; nothing is left of it.
  """
  if length < 2 or episodes < 1:
    raise ValueError(f"{episodes} episodes of {length} frames; at least 1 of 2")
  world = worlds.make(name, **args)
  pieces = (hosted if worlds.hosted(name) else native)(world, episodes, length, seed)
  meta = dict(world=name, version=world.version, args=dict(args), seed=seed, length=length, episodes=episodes)
  return write(path, pieces, frames=episodes * length, meta=meta)


def native(world: worlds.World, episodes: int, length: int, seed: int) -> Iterator[Piece]:
  """Pieces of up to `CHUNK` episodes."""
  make = jax.jit(jax.vmap(functools.partial(worlds.trajectory, world, length, seed)))
  for i in range(0, episodes, CHUNK):
    index, count = np.arange(i, i + CHUNK, dtype=np.int32), min(CHUNK, episodes - i)
    made = {k: v[:count] for k, v in jax.device_get(make(index)).items()}
    action = np.concatenate([made["action"], np.zeros_like(made["action"][:, :1])], 1)
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    yield Piece(flat(made["image"]), flat(action), flat(made["position"]),
                [length * (k + 1) for k in range(count)])


def hosted(world: HostWorld, episodes: int, length: int, seed: int) -> Iterator[Piece]:
  """Pieces of `length` frames."""
  driver, env = world.driver, world.driver.open()
  try:
    for i in range(episodes):
      draws, images, actions, states, ends, over = generator(seed, i), [], [], [], [], True
      while len(images) < length:
        if over:
          seen, act, over = driver.start(env, int(draws.integers(2**31)), ()), driver.behave(draws), False
        else:
          seen, _, over = driver.step(env, actions[-1])
        images.append(driver.image(env, seen))
        states.append(driver.state(env, seen))
        actions.append(act(states[-1]))
        if over or len(images) == length:
          actions[-1] = np.zeros_like(actions[-1])
          ends.append(len(images))
      yield Piece(*(np.stack(x) for x in (images, actions, states)), ends)
  finally:
    env.close()


def write(path: str | os.PathLike, pieces: Iterator[Piece], *, frames: int, meta: Mapping[str, Any]) -> int:
  """Writes pieces of `frames` frames in all; bytes of the file. See `collect`."""
  path = Path(path).expanduser()
  if path.suffix != ".npz":
    raise ValueError(f"--path={path} is to be an .npz")
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".tmp")
  actions, states, ends = [], [], [np.zeros(1, np.int64)]
  bar = tqdm(total=frames, desc=path.name, unit="frame", unit_scale=True, disable=not sys.stderr.isatty())
  try:
    first = next(pieces)
    with bar, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as file:
      with file.open("image.npy", "w", force_zip64=True) as out:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False,
                                                   "shape": (frames, *first.image.shape[1:])})
        for piece in (p for whole in ([first], pieces) for p in whole):
          out.write(np.ascontiguousarray(piece.image, np.uint8).data)
          actions.append(piece.action)
          states.append(piece.state)
          ends.append(ends[-1][-1] + np.asarray(piece.ends, np.int64))
          bar.update(len(piece.image))
      rest = {"action": np.concatenate(actions).astype(np.float32),
              "state": np.concatenate(states).astype(np.float32), "episode_ends": np.concatenate(ends[1:]),
              "meta": np.array(json.dumps(dict(meta)))}
      if ends[-1][-1] != frames:
        raise ValueError(f"{ends[-1][-1]} frames were made, {frames} announced")
      for key, value in rest.items():
        if value.size:
          with file.open(f"{key}.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, value, allow_pickle=False)
    with temporary.open("rb") as file:
      os.fsync(file.fileno())       # before it replaces what was there
    size = temporary.stat().st_size
    temporary.replace(path)
    return size
  except OSError as error:
    raise OSError(error.errno, f"{path} was not written: {error.strerror}") from error
  finally:
    temporary.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
  """The entry point; see the module's docstring."""
  parser = argparse.ArgumentParser(prog="python -m jepa.worlds.collect",
                                   description="Writes trajectories of a world to a file.")
  parser.add_argument("--world", default="two_rooms", help="one of jepa/worlds, pusht_gym or gymnasium:ID")
  parser.add_argument("--world_set", action="append", default=[], metavar="NAME=VALUE",
                      help="an argument of the world; may be repeated")
  parser.add_argument("--episodes", type=int, default=1000)
  parser.add_argument("--length", type=int, default=91, help="frames an episode")
  parser.add_argument("--seed", type=int, default=0, help="of layouts, starts and actions")
  parser.add_argument("--path", required=True, help="the .npz to write")
  given = parser.parse_args(argv)

  def work() -> None:
    clock = time.perf_counter()
    size = collect(given.path, given.world, config.settings(given.world_set, "world_set"),
                   episodes=given.episodes, length=given.length, seed=given.seed)
    frames, seconds = given.episodes * given.length, time.perf_counter() - clock
    print(f"{given.path}: {given.episodes} episodes, {frames:,} frames, {size / 2**20:.1f} MiB, "
          f"{frames / seconds:,.0f} frames/s")

  return command.guarded(work, f"{given.path} was not written")


if __name__ == "__main__":
  command.keep_freed_memory()
  sys.exit(main())
