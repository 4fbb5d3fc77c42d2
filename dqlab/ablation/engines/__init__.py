"""Engines: what carries the packs of a grid to processors."""
