"""From the bytes of an image file to uint8 [H W C]: decode, resize the shortest side, crop the centre."""
import io

import numpy as np


def decode(data: bytes, *, size: int | None, channels: int) -> np.ndarray:
  """An encoded image (PNG, JPEG, WebP, BMP, ...) as uint8 [H W C]; [size size C] where `size` is given.

  The shortest side is resized to `size` (bicubic, antialiased) and the centre cropped. Transparent pixels
  become white, 16-bit grey keeps its upper 8 bits. Orientation tags are ignored, as in the reference loaders.

  Args:
    channels: 1 or 3; colour is converted.

  Raises:
    Exception: whatever Pillow raises on a file that is truncated or no image; its formats do not agree on a
      type.
  """
  from PIL import Image
  with Image.open(io.BytesIO(data)) as image:
    if size and image.format == "JPEG":
      image.draft(None, (2 * size, 2 * size))       # decodes at a fraction of the size, twice what is needed
    image.load()
    image = _to_mode(image, "L" if channels == 1 else "RGB")
  if size and image.size != (size, size):
    width, height = image.size
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
  pixels = np.asarray(image, np.uint8)
  return pixels[..., None] if channels == 1 else pixels


def _to_mode(image, mode: str):
  from PIL import Image
  if image.mode == mode:
    return image
  if image.mode.startswith("I"):                    # Pillow would clip 16 bits at 255
    image = Image.fromarray((np.asarray(image, np.int64).clip(0, 65535) >> 8).astype(np.uint8))
  elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
    paper.alpha_composite(image)
    image = paper
  return image.convert(mode)
