"""TensorFlow Datasets, read from ArrayRecord files without TensorFlow. Nothing is downloaded here."""
import importlib.util
import os
import re

import numpy as np

from jepa.data import reader
from jepa.data.source import Source, from_arrays


def make(split: str, *, name: str, data_dir: str = "", size: int | None = None, image: str = "image",
         label: str = "label", in_memory: bool | None = None, max_bad: float = 0.01) -> Source:
  """A prepared data set.

  Args:
    split: as TFDS writes it: "train", "test[:1000]", "train[80%:]", "train+test".
    name: "cifar10", "cifar10:3.0.2" or "name/config"; without a version the newest that is there.
    data_dir: the folder that holds it; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    size: shortest side resized and centre cropped to this; needed where images differ in size.
    image, label: keys of the features; a data set without `label` is unlabelled.
    in_memory: decode everything now (in threads); None: if it fits (`reader.FITS`). Otherwise images are
      decoded when they are read.
    max_bad: share of unreadable images above which the data are refused; one is always allowed.

  Raises:
    ImportError: tensorflow_datasets or array_record is missing.
    FileNotFoundError: no such data set in data_dir.
    ValueError: unknown split or feature, not ArrayRecord, images without a fixed size.
  """
  for module in ("tensorflow_datasets", "array_record", "importlib_resources"):
    if importlib.util.find_spec(module) is None:
      raise ImportError(f"source 'tfds' needs {module}: pip install {module}")
  import tensorflow_datasets as tfds_lib
  builder = tfds_lib.builder_from_directory(_locate(name, data_dir))
  info, features = builder.info, builder.info.features
  if "array_record" not in str(getattr(info.file_format, "value", info.file_format)):
    raise ValueError(f"{info.full_name} in {builder.data_dir} is stored as {info.file_format}, "
                     f"which has no random access. {_prepare(name)}")
  pictures = [k for k, f in features.items() if isinstance(f, tfds_lib.features.Image)]
  if image not in pictures:
    raise ValueError(f"{info.full_name} has no image feature {image!r}; it has "
                     f"{', '.join(pictures) or 'none'}")
  shape = _shape(features[image], size, info.full_name)
  classes = int(getattr(features[label], "num_classes", 0) or 0) if label in features else 0
  try:
    records = builder.as_data_source(split=split, decoders={image: tfds_lib.decode.SkipDecoding()})
  except ValueError as error:
    raise ValueError(f"{info.full_name}: {str(error).rstrip('.')}. Splits: {', '.join(info.splits)}; "
                     "slices such as train[:10%] work too") from error
  if not len(records):
    raise ValueError(f"{info.full_name}: split {split!r} is empty")

  def fetch(i: int) -> tuple[bytes, int]:
    record = records[i]
    return record[image], int(record[label]) if classes else -1

  title = f"tfds {info.full_name} {split}"
  read = reader.Reader(fetch, lambda i: f"{title} record {i}", length=len(records), shape=shape,
                       resize=size is not None, max_bad=max_bad, where=title)
  describe = lambda n: (f"tfds {info.full_name}, {split}, {n} images {'x'.join(map(str, shape))}, "
                        f"{classes} classes")
  if in_memory or (in_memory is None and reader.fits(len(records), shape)):
    pixels, labels = reader.materialise(read, len(records), shape, title)
    return from_arrays(pixels, labels, classes=classes, describe=describe(len(pixels)))
  return Source(len(records), classes, shape, read, None, describe(len(records)))


def _locate(name: str, data_dir: str) -> str:
  """The folder of the version: data_dir/name[/config]/1.2.3, or data_dir itself if it is one."""
  from etils import epath           # data_dir may be a bucket
  root = epath.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
  if not root.is_dir():
    raise FileNotFoundError(f"data_dir {str(root)!r} does not exist; set config.data.args.data_dir to the "
                            f"folder of your TFDS data. {_prepare(name)}")
  if (root / "dataset_info.json").exists():
    return str(root)
  name, _, version = name.partition(":")
  base = root / name
  found = [p for p in base.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)] if base.is_dir() else []
  versions = sorted((p.name for p in found if (p / "dataset_info.json").exists()),
                    key=lambda v: tuple(map(int, v.split("."))))
  if not versions or (version and version not in versions):
    there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "nothing"
    wanted = f"{name}:{version}" if version else name
    raise FileNotFoundError(f"no prepared {wanted} in {str(root)!r} (versions there: "
                            f"{', '.join(versions) or 'none'}; data sets there: {there}). {_prepare(wanted)}")
  return str(base / (version or versions[-1]))


def _prepare(name: str) -> str:
  return (f"To prepare it, where TensorFlow may be installed: tfds build {name.partition(':')[0]} "
          "--file_format=array_record --data_dir=DATA_DIR")


def _shape(feature, size: int | None, name: str) -> tuple[int, int, int]:
  height, width, channels = feature.shape
  if np.dtype(feature.np_dtype) != np.uint8:
    raise ValueError(f"{name}: images are {feature.np_dtype}, not uint8; convert them to arrays and "
                     "use source 'arrays'")
  channels = 1 if channels == 1 else 3
  if size:
    return size, size, channels
  if height is None or width is None:
    raise ValueError(f"{name}: images differ in size; set config.data.args.size to resize and crop them, "
                     "say to 224")
  return height, width, channels
