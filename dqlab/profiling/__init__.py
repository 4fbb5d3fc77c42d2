"""What an update consists of: a trace of some updates of a run, and the figures that it gives."""
