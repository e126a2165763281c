"""What benchmarks and parity tests need of PyTorch's libraries, which the extra "parity" installs."""
from collections.abc import Iterator
import contextlib
import warnings


@contextlib.contextmanager
def importing_torchvision() -> Iterator[None]:
  """Within it, torchvision and what builds on it can be imported beside a PyTorch built for CPUs.

  There its compiled operators of detection are missing, and it fails while it describes them. No transform,
  loss or ResNet needs them, so these descriptions are passed over. Warnings of the imports are not ours to
  mend.

  Raises:
    ImportError: PyTorch is not installed.
  """
  import torch
  register = torch.library.register_fake

  def register_present(name, *args, **kwargs):
    absent = isinstance(name, str) and name.startswith("torchvision::")
    return (lambda function: function) if absent else register(name, *args, **kwargs)

  torch.library.register_fake = register_present
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    torch.library.register_fake = register
