"""Runs that were not planned together, compared."""
