"""Members called as one give what they give one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dqlab.networks import Layout, critics
from dqlab.networks.ensembles import CriticEnsemble, QNetwork

STATE, ACTION = torch.randn(7, 3).double(), torch.randn(7, 2).double()


def outputs_and_gradient(ensemble: CriticEnsemble, rows: Tensor, as_one: bool | None = None) -> tuple[Tensor, Tensor]:
    layout, rows = Layout.of(ensemble), rows.detach().requires_grad_()

    def one(row: Tensor) -> Tensor:
        network = layout.bind(row, as_one)
        assert bool(network.together) == bool(as_one)
        out: Tensor = network.call("outputs", STATE, ACTION)
        return out

    outputs = torch.vmap(one)(rows) if len(rows) > 1 else one(rows[0]).unsqueeze(0)
    return outputs, torch.autograd.grad(outputs.square().sum(), rows)[0]


def rows_of(ensemble: CriticEnsemble, replicas: int) -> Tensor:
    row = Layout.of(ensemble).flatten(dict(ensemble.named_parameters())).detach()
    return torch.stack([row * (1 + replica) for replica in range(replicas)])


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", critics.names())
def test_every_ensemble(name: str, replicas: int) -> None:
    ensemble = critics.get(name)(3, 2, hidden_dim=20, layer_norm=True).double()
    rows = rows_of(ensemble, replicas)
    found, wanted = (outputs_and_gradient(ensemble, rows, as_one) for as_one in (True, False))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


class Remembering(QNetwork):
    """A critic with a buffer."""

    def __init__(self) -> None:
        super().__init__(3, 2, hidden_dim=4)
        self.register_buffer("seen", torch.zeros(1))


def test_members_that_differ_are_called_one_by_one() -> None:
    """Of two shapes or kinds, or with buffers, whatever the ensemble says of itself; and where it says nothing."""
    shapes: list[nn.Module] = [QNetwork(3, 2, hidden_dim=4), QNetwork(3, 2, hidden_dim=5)]
    kinds: list[nn.Module] = [QNetwork(3, 2, hidden_dim=4, activation=name) for name in ("relu", "tanh")]
    silent: list[nn.Module] = [QNetwork(3, 2, hidden_dim=4) for _ in range(2)]
    ensembles = CriticEnsemble(shapes, alike=True), CriticEnsemble([Remembering(), Remembering()], alike=True)
    for ensemble in (*ensembles, CriticEnsemble(kinds, alike=True), CriticEnsemble(silent)):
        ensemble.double()
        assert Layout.of(ensemble).members is None
        outputs, _ = outputs_and_gradient(ensemble, rows_of(ensemble, 1))
        assert torch.equal(outputs[0], ensemble.outputs(STATE, ACTION))
