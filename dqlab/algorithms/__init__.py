"""Algorithms, one file each: their losses, and what they act with."""
