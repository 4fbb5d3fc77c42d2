"""Datasets: where transitions come from, how they are checked, and how rewards are transformed."""
