"""gin, strictly: loading, registries, plugins, what there is to choose, and which parameters are a run's identity."""
