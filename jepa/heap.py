"""Keeps freed memory in the process, for runs on a CPU (glibc only).

XLA allocates the temporaries of a step anew each time. glibc maps blocks above 32 MB afresh and unmaps them
when freed, so every step pays for zeroed pages. Import this before JAX starts its backend: the settings do
not reach arenas that exist already.
"""
import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8      # <malloc.h>


def keep() -> bool:
  """Serves every allocation from one heap that never shrinks; whether the C library took it."""
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    return False
  settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20), (_ARENA_MAX, 1))
  return all([libc.mallopt(name, value) for name, value in settings])
