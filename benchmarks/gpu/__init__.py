"""Every check that needs an NVIDIA GPU, in one run of a few minutes: `benchmarks/gpu.sh`."""
