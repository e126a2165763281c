"""Mean and sd over runs: python -m jepa.evals.combine RUN [RUN ...], each a workdir or a results.json."""
import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from jepa.evals import suite


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(prog="python -m jepa.evals.combine", description=__doc__)
  parser.add_argument("runs", nargs="+", type=Path, metavar="RUN",
                      help="workdir with a results.json, or the file itself")
  parser.add_argument("--out", type=Path, help="also write the combined results here")
  args = parser.parse_args(argv)
  files = [(r / "results.json" if r.is_dir() else r).resolve() for r in args.runs]
  for file in files:
    if not file.exists():
      parser.error(f"{file} does not exist; a run writes it when it evaluates")
    if files.count(file) > 1:
      parser.error(f"{file} is given twice; a run counts once")
  try:
    rows = suite.combine([suite.load(f) for f in files])
  except ValueError as error:
    parser.error(str(error))
  print(f"mean ± sd over {len(files)} run{'s' if len(files) > 1 else ''}"
        + (", accuracies in %" if rows else ""))
  print(suite.table(rows))
  if args.out:
    suite.save(rows, args.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
