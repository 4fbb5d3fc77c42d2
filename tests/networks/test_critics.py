"""How an ensemble's values become one, by numbers worked by hand; and members called as one."""

from __future__ import annotations

from functools import partial
from typing import Any

import gin
import pytest
import torch
from torch import Tensor, nn

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.config.registry import RegistryEntry
from dqlab.errors import ConfigError
from dqlab.networks import Layout, critics
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import CriticEnsemble, QNetwork
from dqlab.noise import draw_noise, generator_for
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import SoftmaxQ
from dqlab.tools.conformance.networks import check_algorithm

# Three critics, two states.
Q = torch.tensor([[1.0, 5.0], [4.0, -1.0], [7.0, 2.0]], dtype=torch.float64)
STD = 6.0**0.5  # of 1, 4, 7 and of 5, -1, 2: squares 9 + 0 + 9, by 3


def make(name: str, **options: Any) -> CriticEnsemble:
    return critics.get(name)(3, 2, hidden_dim=4, depth=1, **options).double()


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BY_COIN = [(Q[0], Q[1]), (Q[1], Q[0])]
"""What the actor ascends and what scales its loss, as the coin falls."""
AGGREGATES: dict[str, tuple[dict[str, Any], Tensor]] = {
    "twin": ({}, numbers(1, -1)),
    "soft_clipped": ({"n_critics": 3}, numbers(0.75 * 1 + 0.25 * 7, 0.75 * -1 + 0.25 * 5)),
    "ensemble_min": ({"n_critics": 3}, numbers(1, -1)),
    "ensemble_mean": ({"n_critics": 3}, numbers(4, 2)),
    "ensemble_lcb": ({"n_critics": 3, "beta": 0.5}, numbers(4 - STD / 2, 2 - STD / 2)),
}


@pytest.mark.parametrize("name", AGGREGATES)
def test_target_ranking_loss_and_what_the_actor_ascends(name: str) -> None:
    """The actor ascends the same value, but in the first two ensembles one of the first two critics."""
    options, wanted = AGGREGATES[name]
    ensemble, q = make(name, **options), Q[:2] if name == "twin" else Q
    assert ensemble.noise() == {}
    torch.testing.assert_close(ensemble.backup(q.unsqueeze(-1), {}), wanted.unsqueeze(-1))
    torch.testing.assert_close(ensemble.ranking_value(q.unsqueeze(1)), wanted.unsqueeze(0))
    ascended = 2 * [(wanted, wanted)] if name.startswith("ensemble") else BY_COIN
    for coin in (0, 1):
        torch.testing.assert_close(ensemble.actor_objective(q, torch.tensor(coin)), ascended[coin])
    loss = ensemble.loss(Q.unsqueeze(-1), numbers(1, 0).unsqueeze(-1))
    assert float(loss) == (0 + 25 + 9 + 1 + 36 + 4) / 2  # summed mean squares


@pytest.mark.parametrize(
    ("subset", "wanted"),
    [
        ([0.9, 0.1, 0.5], (1, 2)),  # the first and the third
        ([0.1, 0.9, 0.5], (4, -1)),  # the second and the third
        ([0.5, 0.9, 0.1], (1, -1)),  # the first two
    ],
)
def test_redq_takes_the_minimum_of_a_subset(subset: list[float], wanted: tuple[float, float]) -> None:
    ensemble = make("redq", n_critics=3)
    backup = ensemble.backup(Q.unsqueeze(-1), {"subset": numbers(*subset)})
    assert torch.equal(backup, numbers(*wanted).unsqueeze(-1))
    assert torch.equal(ensemble.actor_objective(Q, torch.tensor(0))[0], numbers(4, 2))
    assert torch.equal(ensemble.ranking_value(Q), numbers(4, 2))


def test_redq_draws_every_pair_equally_often() -> None:
    """Of 5 critics with values 0..4, the minimum of a pair is 0 in 4 of 10 pairs, 1 in 3, 2 in 2, 3 in 1."""
    ensemble = make("redq", n_critics=5)
    many = draw_noise(ensemble.noise(), generator_for(0, "test", 0), torch.float64, count=10_000)
    values = torch.arange(5.0).view(5, 1, 1)
    lowest = torch.vmap(lambda noise: ensemble.backup(values, {"subset": noise}))(many["subset"]).flatten()
    share = lowest.long().bincount(minlength=4) / len(lowest)
    assert share.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.02)


def test_tqc_drops_the_highest_of_the_pooled_quantiles() -> None:
    """Two critics of three quantiles, one dropped for each: of 1 2 9 and 8 3 4 are left 1 2 3 4."""
    ensemble = make("tqc", n_critics=2, n_quantiles=3, n_dropped=1)
    outputs = numbers(1, 2, 9, 8, 3, 4).view(2, 1, 3)
    assert torch.equal(ensemble.backup(outputs, {}), numbers(1, 2, 3, 4).unsqueeze(0))
    q = outputs.mean(dim=-1)  # 4 and 5
    assert torch.equal(ensemble.actor_objective(q, torch.tensor(1))[0], numbers(4.5))
    assert torch.equal(ensemble.ranking_value(q), numbers(4.5))


@pytest.mark.parametrize("name", ["redq", "tqc"])
def test_a_backup_over_candidates_is_the_same_alone_and_packed(name: str) -> None:
    critic = partial(critics.get(name), hidden_dim=8, depth=1)
    policy = partial(DiffusionPolicy, n_timesteps=2, denoiser=partial(MLPDenoiser, hidden_dim=8))
    selection = partial(SoftmaxQ, n_candidates=2)
    make = partial(DiffusionQL, policy=policy, critic=critic, selection=selection, max_q_backup=True)
    check_algorithm(RegistryEntry("made", make))


@pytest.mark.parametrize("name", critics.names())
def test_gin_shapes_one_ensemble_and_no_other(name: str) -> None:
    gin.parse_config(f"{critics.get(name).__name__}.hidden_dim = 4")
    widths = {other: critics.get(other)(3, 2).members[0].layers[0].out_features for other in critics.names()}
    assert widths == {other: 4 if other == name else 256 for other in critics.names()}


MISTAKES = [
    ("ensemble_lcb", {"n_critics": 1}, "n_critics must be at least 2, not 1"),
    ("redq", {"n_subset": 11}, "n_subset must be between 1 and 10"),
    ("tqc", {"n_dropped": 25}, "n_dropped must be between 0 and 24"),
    ("tqc", {"n_quantiles": 1}, "n_quantiles must be at least 2"),
    ("soft_clipped", {"weight": 1.5}, "weight must be between 0 and 1"),
    ("twin", {"activation": "rellu"}, "Did you mean 'relu'"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES)
def test_mistakes_are_one_clear_message(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        critics.get(name)(3, 2, **options)


STATE, ACTION = torch.randn(7, 3).double(), torch.randn(7, 2).double()


def outputs_and_gradient(ensemble: CriticEnsemble, replicas: int, as_one: bool | None = None) -> tuple[Tensor, Tensor]:
    layout = Layout.of(ensemble)
    row = layout.flatten(dict(ensemble.named_parameters())).detach()
    rows = torch.stack([row * (1 + replica) for replica in range(replicas)]).requires_grad_()

    def one(row: Tensor) -> Tensor:
        network = layout.bind(row, as_one)
        assert bool(network.together) == bool(as_one)
        out: Tensor = network.call("outputs", STATE, ACTION)
        return out

    outputs = torch.vmap(one)(rows) if replicas > 1 else one(rows[0]).unsqueeze(0)
    return outputs, torch.autograd.grad(outputs.square().sum(), rows)[0]


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", ["twin", "tqc"])
def test_members_called_as_one_give_what_they_give_one_by_one(name: str, replicas: int) -> None:
    ensemble = critics.get(name)(3, 2, hidden_dim=20, layer_norm=True).double()
    found, wanted = (outputs_and_gradient(ensemble, replicas, as_one) for as_one in (True, False))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


class Remembering(QNetwork):
    """A critic with a buffer."""

    def __init__(self) -> None:
        super().__init__(3, 2, hidden_dim=4)
        self.register_buffer("seen", torch.zeros(1))


UNLIKE: dict[str, tuple[list[nn.Module], bool]] = {
    "shapes": ([QNetwork(3, 2, hidden_dim=width) for width in (4, 5)], True),
    "kinds": ([QNetwork(3, 2, hidden_dim=4, activation=name) for name in ("relu", "tanh")], True),
    "buffers": ([Remembering(), Remembering()], True),
    "nothing said": ([QNetwork(3, 2, hidden_dim=4) for _ in range(2)], False),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_members_that_differ_are_called_one_by_one(unlike: str) -> None:
    """Whatever the ensemble says of itself."""
    members, alike = UNLIKE[unlike]
    ensemble = CriticEnsemble(members, alike=alike).double()
    assert Layout.of(ensemble).members is None
    assert torch.equal(outputs_and_gradient(ensemble, 1)[0][0], ensemble.outputs(STATE, ACTION))
