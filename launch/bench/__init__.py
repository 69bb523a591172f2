"""Benchmarks: our way and the plain way of the same work, in turn, on the same machine."""
