"""How a program is run: eagerly, compiled, or recorded as a CUDA graph."""
