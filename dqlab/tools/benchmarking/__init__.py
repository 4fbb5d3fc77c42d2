"""Benchmarks: measured side by side, recorded in MLflow, compared with their history."""
