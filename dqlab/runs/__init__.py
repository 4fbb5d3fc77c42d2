"""One run from a gin file to its results: train, evaluate, film, profile; the official code's files."""
