"""What runs a grid's packs: this machine, a Ray cluster, SLURM."""
