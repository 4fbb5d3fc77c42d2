"""One file of checks a topic."""
