"""The checks, a module for each heading."""
