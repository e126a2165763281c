"""Networks. The only folder that imports Flax; what leaves it are the plain functions of `Net`
and `StatefulNet`."""
