"""One file an algorithm: its losses, its targets, how it acts."""
