"""Files of datasets, read block by block and written whole or not at all."""
