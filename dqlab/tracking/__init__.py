"""What is written of a run: its folder, its records, its display; `mlflow` sends it."""
