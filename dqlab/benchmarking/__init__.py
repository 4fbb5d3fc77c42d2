"""Benchmarks: how they are measured (a pytest plugin), where their figures go (MLflow), and how they are compared."""
