"""Losses: arrays in, an f32 scalar out. No parameters, no config, no mesh;
a mean over B is the mean of the global batch."""
