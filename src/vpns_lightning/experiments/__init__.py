"""Grids of runs, and the figures and tables drawn from them."""
