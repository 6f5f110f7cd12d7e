"""Grids: many runs from one file, planned, run and resumed."""
