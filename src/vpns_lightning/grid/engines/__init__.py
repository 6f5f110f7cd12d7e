"""Engines: where the runs of a grid are started."""
