"""What every command does around its work: memory is kept, libraries are quiet, and what is wrong is said in
one line. It imports nothing heavy, so that `--help` answers at once."""
from collections.abc import Callable, Sequence
import ctypes
import sys

from absl import app, flags, logging

# What is worth a line and no traceback: bad input, bad files, missing packages, runs that stop themselves.
SAID = (ValueError, OSError, RuntimeError, FloatingPointError, ImportError)

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8      # <malloc.h>


def run(work: Callable[[], int | None], *, required: Sequence[str] = (),
        interrupted: str = "nothing was saved") -> None:
  """Parses the flags and exits with the code of `guarded`."""
  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; options are written --name=value")
    keep_freed_memory()
    quiet_libraries()
    sys.exit(guarded(work, interrupted))

  flags.mark_flags_as_required(required)
  app.run(main)


def guarded(work: Callable[[], int | None], interrupted: str) -> int:
  """The code that `work` returns (None: 0). 1: an error, said in a line (with --verbosity=1 where it came
  from); 130: Ctrl-C, which is answered with the text `interrupted`."""
  try:
    return work() or 0
  except SAID as error:
    if logging.level_debug():
      raise
    print(f"\njepa: {type(error).__name__}: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(f"\njepa: interrupted; {interrupted}", file=sys.stderr)
    return 130


def keep_freed_memory() -> bool:
  """Serves every allocation from one heap that never shrinks; whether the C library took it (glibc does).

  For runs on a CPU: XLA allocates the temporaries of a step anew each time. glibc maps blocks above 32 MB
  afresh and unmaps them when freed, so every step would pay for zeroed pages. To be called before JAX starts
  its backend: the settings do not reach arenas that exist already.
  """
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    return False
  settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20), (_ARENA_MAX, 1))
  return all([libc.mallopt(name, value) for name, value in settings])


def quiet_libraries() -> None:
  """Keeps the chatter of libraries (Orbax logs a line a file) out of the terminal; warnings pass."""
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  logging.use_absl_handler()
