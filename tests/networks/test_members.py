"""Members called as one give what they give one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dqlab.networks import stacking
from dqlab.networks.critics import CriticEnsemble, QNetwork, critics
from dqlab.networks.stacking import Layout

STATE, ACTION = torch.randn(7, 3).double(), torch.randn(7, 2).double()


def outputs_and_gradient(ensemble: CriticEnsemble, rows: Tensor) -> tuple[Tensor, Tensor]:
    layout, rows = Layout.of(ensemble), rows.detach().requires_grad_()

    def one(row: Tensor) -> Tensor:
        out: Tensor = layout.bind(row).call("outputs", STATE, ACTION)
        return out

    outputs = torch.vmap(one)(rows) if len(rows) > 1 else one(rows[0]).unsqueeze(0)
    return outputs, torch.autograd.grad(outputs.square().sum(), rows)[0]


def rows_of(ensemble: CriticEnsemble, replicas: int) -> Tensor:
    row = Layout.of(ensemble).flatten(dict(ensemble.named_parameters())).detach()
    return torch.stack([row * (1 + replica) for replica in range(replicas)])


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", critics.names())
def test_every_ensemble(name: str, replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = critics.get(name)(3, 2, hidden_dim=20, layer_norm=True).double()
    rows = rows_of(ensemble, replicas)
    wanted = outputs_and_gradient(ensemble, rows)
    monkeypatch.setattr(stacking, "one_by_one", lambda device: False)
    assert Layout.of(ensemble).members is not None
    assert Layout.of(ensemble).bind(rows[0]).together
    found = outputs_and_gradient(ensemble, rows)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_members_that_differ_are_called_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's ensemble of two shapes, whatever it says of itself; and one that says nothing."""
    different: list[nn.Module] = [QNetwork(3, 2, hidden_dim=4), QNetwork(3, 2, hidden_dim=5)]
    silent: list[nn.Module] = [QNetwork(3, 2, hidden_dim=4) for _ in range(2)]
    monkeypatch.setattr(stacking, "one_by_one", lambda device: False)
    for ensemble in (CriticEnsemble(different, alike=True).double(), CriticEnsemble(silent).double()):
        assert Layout.of(ensemble).members is None
        outputs, _ = outputs_and_gradient(ensemble, rows_of(ensemble, 1))
        assert torch.equal(outputs[0], ensemble.outputs(STATE, ACTION))
