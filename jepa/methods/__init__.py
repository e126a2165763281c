"""One paper per file. A file defines `make(*, ..., steps) -> Method`; config.method names the file,
config.args its arguments. `steps`, the length of the run, is passed by the train loop."""
