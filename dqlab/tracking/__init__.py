"""What is recorded of a run: a local journal, MLflow, the live display, the learning curve."""
