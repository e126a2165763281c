"""Captions as bytes: no vocabulary to build, no file to ship, any language. NumPy only."""
from collections.abc import Sequence

import numpy as np

PAD, START, END = 0, 1, 2
FIRST = 3                           # token of byte 0
VOCABULARY = FIRST + 256


def tokenise(texts: Sequence[str], length: int) -> np.ndarray:
  """int32 [N L]: START, the bytes of the text in UTF-8 + FIRST, END, and PAD up to `length`.

  A longer text is cut after its last whole character, so START and END are always there.

  Raises:
    ValueError: no room for START, END and a byte.
  """
  if length < 3:
    raise ValueError(f"captions of {length} tokens: at least 3 are needed, for start, one byte and end")
  tokens = np.full((len(texts), length), PAD, np.int32)
  for row, text in zip(tokens, texts):
    data = text.encode("utf-8", "replace")            # a lone surrogate has no bytes
    if len(data) > length - 2:
      data = data[:length - 2].decode("utf-8", "ignore").encode("utf-8")
    row[0], row[1 + len(data)] = START, END
    row[1:1 + len(data)] = np.frombuffer(data, np.uint8) + np.int32(FIRST)
  return tokens


def detokenise(tokens: np.ndarray) -> list[str]:
  """The texts of int [N L], as far as they were not cut."""
  return [bytes((row[row >= FIRST] - FIRST).astype(np.uint8)).decode("utf-8", "replace") for row in tokens]
