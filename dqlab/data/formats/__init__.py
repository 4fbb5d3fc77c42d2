"""File formats that datasets are read from and written to."""
