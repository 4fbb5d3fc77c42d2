"""Denoisers and critics: ordinary modules written for one network, and the code that stacks them."""
