"""What works on this machine, and the fix for what does not: `dqlab doctor`."""
