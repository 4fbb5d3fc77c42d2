"""Ordinary modules, written for one network, and K of them as one matrix."""
