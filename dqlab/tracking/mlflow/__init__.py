"""MLflow: what a run or a grid has recorded, sent while it trains or afterwards."""
