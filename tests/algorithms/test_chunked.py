"""Every algorithm on action chunks: an action is h of the environment's, a reward h numbers."""

from __future__ import annotations

import gin
import pytest
import torch
from conftest import PLAIN, SHALLOW, SMALL
from torch import Tensor

from dqlab.algorithms import algorithms
from dqlab.data import Batch
from dqlab.data.transitions import map_fields
from dqlab.noise import NoiseSpec, draw_noise, generator_for
from dqlab.policies.base import Dims
from dqlab.training import Pack
from dqlab.training.execution.modes import Compile, Eager
from dqlab.training.execution.program import Program, TensorTree
from dqlab.training.probe import Probe

CHUNK, ROWS = 3, 8
DIMS = Dims(4, 2 * CHUNK, chunk=CHUNK)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator_for(0, "chunks", sum(shape)))


def chunks(reads_next_action: bool, replicas: int) -> Batch:
    """The same rows for every replica; some end at a terminal step."""
    following = normal(ROWS, 2 * CHUNK + 1)[:, 1:].tanh() if reads_next_action else None
    ends = (torch.arange(ROWS) % 3 == 0).float()
    rows = Batch(normal(ROWS, 4), normal(ROWS, 2 * CHUNK).tanh(), normal(ROWS, CHUNK), normal(ROWS, 5)[:, 1:], ends)
    return map_fields(lambda field: field.expand(replicas, *field.shape), rows._replace(next_action=following))


def noise_of(specs: dict[str, NoiseSpec], pack: Pack, step: int) -> dict[str, Tensor]:
    """The same for two replicas."""
    drawn = draw_noise(specs, generator_for(0, "chunks", step), pack.dtype)
    return {key: value.expand(2, *value.shape).clone() for key, value in drawn.items()}


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_learns_from_chunks(name: str) -> None:
    """Wired, finite, and moved by a reward that is not the first of its chunk; as it acts, h actions in a row."""
    gin.parse_config([*SMALL, *SHALLOW])
    algorithm = algorithms.get(name)()
    Probe(algorithm, DIMS).check_wiring()
    pack = Pack([algorithm] * 2, DIMS, [0, 0])
    batch = chunks(algorithm.reads_next_action, 2)
    rewards = batch.reward.clone()
    rewards[1, :, -1] += 1.0
    pack.state.step = step = pack.phases[-1]
    before = {name: matrix.clone() for name, matrix in pack.state.parameters.items()}
    batch, noise = batch._replace(reward=rewards), noise_of(algorithm.update_noise(DIMS, ROWS), pack, 0)
    info = pack.update(batch, noise)
    assert all(bool(value.isfinite().all()) for value in info.values())
    for key, matrix in pack.state.parameters.items():
        assert matrix.isfinite().all()
        assert torch.equal(matrix[0], before[key][0]) is not pack.trained[key].updates_at(step), key
    if "critic" in pack.trained:
        assert not torch.equal(*pack.state.parameters["critic"])
    actions = pack.act(normal(5, 4).expand(2, 5, 4), noise_of(algorithm.act_noise(DIMS, 5), pack, 1))
    assert actions.shape == (2, 5, 2 * CHUNK)


def test_chunks_are_compiled_as_they_are_computed() -> None:
    """The critics' gradient, of two replicas with discounts of their own."""
    gin.parse_config([*SMALL, *SHALLOW, *PLAIN])
    make = algorithms.get("rebrac")
    pack = Pack([make(), make(discount=0.5)], DIMS, [0, 0], dtype=torch.float64)
    noise = noise_of(pack.algorithm.update_noise(DIMS, ROWS), pack, 0)
    batch = map_fields(lambda field: field.double(), chunks(True, 2))

    def gradient(tensors: TensorTree) -> Tensor:
        matrix, loss, _ = pack.loss("critic", tensors["pack"], tensors["batch"], tensors["noise"])
        return torch.autograd.grad(loss, matrix)[0]

    program = Program(gradient, {"pack": pack.tensors(slice(None)), "batch": batch, "noise": noise})
    computed = Eager()(program)()
    assert not torch.equal(*computed)
    torch.testing.assert_close(Compile()(program)(), computed, rtol=1e-9, atol=1e-12)
