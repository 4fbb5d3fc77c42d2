"""gin, strictly: loading, registries, plugins, and which parameters are a run's identity."""
