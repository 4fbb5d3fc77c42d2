"""Every part does what its kind must, and the gin file works."""

from pathlib import Path

import torch
from dqlab_plugin.critic import DqlabPluginSoftMin

from dqlab.config import gin_files
from dqlab.diffusion.schedules import build_betas
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_experiment
from dqlab.testing import check_plugin


def test_every_part_conforms() -> None:
    """The suite that dqlab holds its own parts against."""
    check_plugin("dqlab-plugin")


def test_the_gin_file_builds_an_experiment() -> None:
    """One update and one action on made-up numbers."""
    gin_files.load_gin([Path(__file__).parent.parent / "dqlab_plugin.gin"])
    check_experiment(Experiment())


def test_two_steps_of_the_schedule() -> None:
    """By hand: abar(1/2) is 1/2 by symmetry, so the first beta is 1/2; the last one is clipped."""
    torch.testing.assert_close(build_betas("dqlab_plugin_sigmoid", 2), torch.tensor([0.5, 0.999]).double())


def test_the_target_lies_between_minimum_and_maximum() -> None:
    """By hand: 0.75 * 1 + 0.25 * 5."""
    outputs = torch.tensor([1.0, 5.0]).view(2, 1, 1)
    assert DqlabPluginSoftMin(3, 2, hidden_dim=4).backup(outputs, {}).item() == 2.0
