"""Actions that a finished run's policy draws by itself, without critics that choose among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqlab import configuration
from dqlab.experiment import Experiment
from dqlab.noise import draw, generator_for
from dqlab.run_folder import RunFolder
from dqlab.training import checkpoint


def policy_samples(path: Path, count: int) -> NDArray[Any]:
    """Actions (count, A) of a finished run's last policy, of its first replica, in the state of zeros.

    The noise is a function of its seed, so the same run gives the same samples.

    Raises:
        RunError: the run has not finished.
    """
    folder = RunFolder(path)
    replica = folder.replicas()[0]
    configuration.load_stored(folder.config)
    experiment = Experiment()
    pack = experiment.pack([replica])
    weights, _ = checkpoint.load(folder.snapshot(replica.name, folder.chosen_step(replica, "last")))
    pack.load(0, weights)
    generator = generator_for(replica.seed, "figure", 0, pack.device)
    noise = draw(pack.algorithm.propose_noise(pack.dims, count), generator, pack.dtype, count=1)
    state = torch.zeros(1, count, pack.dims.state, dtype=pack.dtype, device=pack.device)
    return np.asarray(pack.propose(state, noise)[0].double().cpu())
