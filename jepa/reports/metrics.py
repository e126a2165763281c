"""What a metric is called in figures and tables, and which are accuracies, shown in %."""
from collections.abc import Iterable, Mapping
from typing import Any

from jepa.evals import results

# In a legend or a column; on an axis or over a figure. What is not here goes by its own name.
SHORT = {"linear": "linear", "knn": "kNN", "finetune": "fine-tune", "segment": "segmentation",
         "rankme": "RankMe", "std_relative": "relative std", "images_per_s": "images/s"}
LONG = {"linear": "linear probe", "lowshot": "linear probe, few labels", "knn": "kNN",
        "segment": "segmentation, patch mIoU", "finetune": "fine-tuned", "rankme": "RankMe",
        "std_relative": "relative feature std", "std": "mean std of a feature", "images_per_s": "images/s"}


def accuracies(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """The metrics of rows that are accuracies, in the order of the table of results. rows: results, or anything
  that has a "metric"."""
  return [m for m, *_, kind in results.columns(list(rows)) if kind == "percent"]


def percent(metric: str) -> bool:
  """Whether it is an accuracy, in [0, 1] and shown in %."""
  return bool(accuracies([{"metric": metric}]))


def scale(metric: str) -> int:
  """What a value is multiplied with to be shown."""
  return 100 if percent(metric) else 1


def title(metric: str) -> str:
  """Of an axis or a figure."""
  name = LONG.get(metric, metric)
  return f"{name}{' in %' if metric == 'segment' else ', accuracy in %'}" if percent(metric) else name
