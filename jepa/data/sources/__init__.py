"""Where examples come from: one source a file, each with `make(split, *, ...) -> Source`, opened by
jepa.data.source.make.

config.data.source is the file's name, or a dotted path into your own package; config.data.args its keywords.
Splits are "train", "test", "all", slices and sums of them: see jepa/data/splits.py. NumPy only: heavy imports
wait until a source is asked for, and importing this folder imports no source.
"""
