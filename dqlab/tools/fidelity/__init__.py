"""Both stacks side by side: `dqlab fidelity`."""
