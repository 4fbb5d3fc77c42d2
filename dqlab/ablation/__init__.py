"""A grid of experiments: settings, cells, packs, the driver."""
