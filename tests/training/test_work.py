"""The counted arithmetic of an update, against a count by hand; and the same alone as together."""

from __future__ import annotations

import torch

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.training import Pack
from dqlab.training.probe import flops_of_update

DIMS, BATCH, HIDDEN, TIME = Dims(5, 3), 8, 32, 4


def denoiser(state_dim: int, action_dim: int) -> MLPDenoiser:
    return MLPDenoiser(state_dim, action_dim, hidden_dim=HIDDEN, time_dim=TIME)


def test_behaviour_cloning_by_hand() -> None:
    """A layer from n to m: 2 B n m operations for its output, as many for its weights' gradient, and as many for its
    input's, which only the first layer of the time embedding does not need."""
    layers = [
        (TIME, 2 * TIME),
        (2 * TIME, TIME),
        (3 + TIME + 5, HIDDEN),
        (HIDDEN, HIDDEN),
        (HIDDEN, HIDDEN),
        (HIDDEN, 3),
    ]
    each = [2 * BATCH * n * m for n, m in layers]
    pack = Pack([BehaviourCloning(policy=lambda: DiffusionPolicy(denoiser=denoiser))], DIMS, [0])
    assert flops_of_update(pack, BATCH) == 3 * sum(each) - each[0]


def test_replicas_cost_the_same_alone_and_together() -> None:
    algorithm = DiffusionQL(policy=lambda: DiffusionPolicy(denoiser=denoiser))
    alone = flops_of_update(Pack([algorithm], DIMS, [0]), BATCH)
    assert alone > 0
    assert flops_of_update(Pack([algorithm] * 3, DIMS, [0, 1, 2]), BATCH) == 3 * alone
    assert flops_of_update(Pack([algorithm] * 3, DIMS, [0, 1, 2], width=3), BATCH) == 3 * alone


def test_counting_changes_nothing() -> None:
    pack = Pack([DiffusionQL(policy=lambda: DiffusionPolicy(denoiser=denoiser))], DIMS, [0])
    before = pack.weights(0)
    generator = torch.get_rng_state()
    flops_of_update(pack, BATCH)
    after = pack.weights(0)
    assert all(torch.equal(before[net][name], after[net][name]) for net in before for name in before[net])
    assert torch.equal(generator, torch.get_rng_state())
    assert pack.state.step == 0
