"""Every registered component passes its kind's conformance suite; of broken ones the suite says what is wrong.

Other mistakes that authors make are found before training begins, in words that help.
"""

# Annotations are not postponed here, as they need not be in a plugin.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
import torch
from conftest import SHALLOW, SMALL
from numpy.random import default_rng

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.td3_bc import TD3BC
from dqlab.config.registry import Registry
from dqlab.data.formats.arrays import Npz
from dqlab.data.sources import data_sources
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DqlabError, error_place
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.precision import Precision
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import Argmax
from dqlab.testing import CHECKS, check
from dqlab.tools.collect.behaviours import UniformRandom
from dqlab.training import Probe

tasks.names()  # fills the registries
COMPONENTS = [(kind, first.name) for kind, each in sorted(Registry.kinds.items()) for first, *_ in each.families()]
HOPPER = tasks.get("hopper-medium-v2")
DIMS = Dims(5, 3)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=["-".join(each) for each in COMPONENTS])
def test_every_component_conforms(kind: str, name: str) -> None:
    gin.parse_config([*SMALL, *(SHALLOW if kind == "algorithm" else [])])
    if reason := check(kind, name):
        pytest.skip(reason)


def test_every_kind_is_checked_by_what_it_does() -> None:
    """No kind is left to its names."""
    assert set(CHECKS) == set(Registry.kinds)
    assert all(check.__module__.startswith("dqlab.tools.conformance.") for check in CHECKS.values())


def spoilt(base: type, method: str, spoil: Any) -> type:
    """A class with a method that calls the sound one, its first argument, and does wrong."""

    def wrong(self: Any, *given: Any) -> Any:
        return spoil(partial(getattr(base, method), self), *given)

    return type("Spoilt", (base,), {method: wrong})


def with_shared_states(sound: Any, which: Sequence[int], actions: Any) -> Any:
    return replace(step := sound(which, actions), state=step.state + len(which))


def unseeded(sound: Any, seeds: Sequence[int], groups: Sequence[int]) -> Any:
    return sound(default_rng().integers(10**9, size=len(seeds)).tolist(), groups)


def with_rounded_rewards(sound: Any, path: Path, columns: Any) -> None:
    sound(path, replace(columns, rewards=columns.rewards.round(1)))


def credulous(sound: Any, path: Path, last: list[Any] = []) -> Any:  # noqa: B006
    """What is damaged is taken for an older dataset."""
    with suppress(DqlabError):
        last.append(sound(path))
    return last[-1]


def lasting(sound: Any, device: torch.device) -> Any:
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    return nullcontext()


@contextmanager
def rounding(sound: Any, device: torch.device) -> Iterator[None]:
    exact = torch.nn.Linear.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", lambda layer, x: (exact(layer, x) * 8).round() / 8)
        yield


def scaled(factor: float, *names: str) -> Any:
    """A physics law that changes these arrays of a model."""
    return lambda model, body: [np.multiply(array := getattr(model, name), factor, out=array) for name in names]


def narrow(task: Task, argument: str, progress: Any) -> Any:
    found: Any = data_sources.get("bandit")(tasks.get("bandit-2d"), "", progress)
    return replace(found, rows=replace(found.rows, actions=found.rows.actions[:][:, :1]))


def with_loss(change: Any) -> Any:
    return spoilt(BehaviourCloning, "actor_loss", lambda sound, *given: change(*sound(*given)))


def with_mean_reward(sound: Any, nets: Any, batch: Any, *more: Any) -> Any:
    return sound(nets, batch._replace(reward=batch.reward.view(len(batch.state), -1).mean(-1)), *more)


def with_plain_reward(sound: Any, nets: Any, batch: Any, *more: Any) -> Any:
    return sound(nets, batch._replace(reward=batch.reward + 0 * batch.terminal), *more)


def with_a_loss_a_step(sound: Any, nets: Any, batch: Any, *more: Any) -> Any:
    loss, info = sound(nets, batch, *more)
    return loss * batch.reward.mean(0), info


class Undecorated(Argmax):
    n_candidates: int = 7


def spoilt_actions(spoil: Any) -> type:
    return spoilt(UniformRandom, "begin", lambda sound, seed: lambda seen: spoil(sound(seed)(seen)))


def spoilt_inputs(spoil: Any) -> type:
    return spoilt(MLPDenoiser, "forward", lambda sound, x, *more: sound(spoil(x), *more))


def nan(sound: Any, *given: Any) -> Any:
    return sound(*given) * torch.nan


def without_rewards(sound: Any, which: Sequence[int], actions: Any) -> Any:
    return replace(sound(which, actions), reward=np.full(len(which), np.nan))


spoilt_environments = partial(spoilt, GymnasiumEnvironments)
CASES = [
    ("noise_schedule", lambda n: torch.full((n,), 2.0, dtype=torch.float64), r"inside \(0, 1\)"),
    ("selection", spoilt(Argmax, "__call__", lambda *_: torch.randint(0, 50, (7,))), "random numbers of its own"),
    ("selection", Undecorated, "decorate the class with @dataclass"),
    ("behaviour", spoilt_actions(lambda _: default_rng().uniform(-1, 1, (1, 3))), "begun again, act otherwise"),
    ("behaviour", spoilt_actions(lambda actions: 3 * actions), r"out of \[-1, 1\]"),
    ("task", replace(HOPPER, state_dim=12), "width 11; its task says 12"),
    ("task", replace(HOPPER, min_score=9000.0), "max_score must be larger"),
    ("task", replace(HOPPER, env_id="Nowhere-v0"), "Cannot build Nowhere-v0"),
    ("physics", scaled(0.0, "body_mass"), "a mass is not positive"),
    ("physics", scaled(0.1, "geom_friction"), "it changes geom_friction"),
    ("physics", scaled(2.0, "body_mass", "body_inertia"), "a mass of 14.0 kg becomes 28.00"),
    ("env_backend", spoilt_environments("reset", unseeded), "begun again, goes otherwise"),
    ("env_backend", spoilt_environments("step", with_shared_states), "a step depends on the other environments"),
    ("env_backend", spoilt_environments("step", without_rewards), "begun again, goes otherwise"),
    ("data_source", lambda *_: "walker2d.hdf5", "gives a str instead of a LocatedDataset"),
    ("data_source", narrow, "observations of .*: shape"),
    ("data_format", spoilt(Npz, "write", with_rounded_rewards), "reward is read back with other values"),
    ("data_format", spoilt(Npz, "read", credulous), "a dataset that is damaged is read"),
    ("reward_transform", lambda reward, returns: reward * 2.0**0.5 + np.zeros(1), "it gives float64 for float32"),
    ("reward_transform", lambda reward, returns: reward[:-1], "it gives"),
    ("reward_transform", lambda reward, returns: reward / np.ptp(reward), "not finite"),
    ("offline_rule", lambda losses, top_k: top_k, "of 1 losses with top_k = 1"),
    ("offline_rule", lambda losses, top_k: np.argmin(losses), "an index must be an int"),
    ("early_stop", lambda losses: losses.append(0.0) or False, "it writes into its arguments"),
    ("early_stop", lambda losses: losses[-1] < 0.3, "whose last loss is higher"),
    ("early_stop", lambda losses: len(losses) > 6, "each has the lowest loss so far"),
    ("precision", spoilt(Precision, "region", lasting), "it outlives its context"),
    ("precision", spoilt(Precision, "region", rounding), "values are off by"),
    ("denoiser", spoilt_inputs(lambda x: x.clamp_(-0.1, 0.1)), "it writes into its arguments"),
    ("denoiser", spoilt_inputs(lambda x: torch.nn.BatchNorm1d(3).double()(x)), "other rows, as .* BatchNorm make it"),
    ("algorithm", with_loss(lambda loss, info: (loss * (1.0 + float(loss)), info)), "item"),
    ("algorithm", spoilt(TD3BC, "td_loss", with_mean_reward), "the discounted sum counts"),
    ("algorithm", spoilt(TD3BC, "td_loss", with_a_loss_a_step), r"it fails with action chunks .*must be a scalar"),
    ("algorithm", spoilt(TD3BC, "td_loss", with_plain_reward), r"it fails with action chunks .*does not refuse them"),
    ("algorithm", spoilt(BehaviourCloning, "sample_action", nan), "sample_action differs when packed"),
]


@pytest.mark.parametrize(("kind", "component", "message"), CASES, ids=lambda value: value if type(value) is str else "")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_suite_says_what_is_broken(kind: str, component: Any, message: str) -> None:
    Registry.kinds[kind].add("broken", component, summary="Broken.", source="no paper")
    try:
        with pytest.raises((AssertionError, ConfigError, RuntimeError), match=message):
            check(kind, "broken")
    finally:
        Registry.kinds[kind].remove("broken")
        torch.set_autocast_enabled("cpu", False)


def test_what_is_undocumented_or_cannot_be_looked_at() -> None:
    def absent(sound: Any, count: int) -> None:
        raise ConfigError("There is no such machine.")

    backends = Registry.kinds["env_backend"]
    backends.add("remote", spoilt_environments("prepare", absent), summary="Elsewhere.", source="no paper")
    backends.add("silent", spoilt_environments("prepare", absent))
    try:
        assert check("env_backend", "remote") == "There is no such machine."
        with pytest.raises(AssertionError, match="no summary: give it a docstring"):
            check("env_backend", "silent")
    finally:
        backends.remove("remote")
        backends.remove("silent")


@dataclass(frozen=True)
class Scaled(BehaviourCloning):
    """A float field of its own."""

    scale: float = 2.0

    def actor_loss(self, dims: Dims, nets: Any, batch: Any, noise: Any, hyper: Any) -> Any:
        loss, info = super().actor_loss(dims, nets, batch, noise, hyper)
        return hyper["scale"] * loss, info


def test_fields_are_read_without_postponed_annotations() -> None:
    Probe(Scaled(), DIMS).check_wiring()
    assert Scaled(scale=3.0).hyper() == {"learning_rate": 3e-4, "scale": 3.0}
    with pytest.raises(ConfigError, match="Scaled.scale must be of type float, not 'high'"):
        Scaled(scale="high")  # type: ignore[arg-type]


WRONG_LOSSES: dict[str, Any] = {
    r"the loss of 'actor' must be a scalar tensor, .* \(7,\)": lambda loss, info: (loss.expand(7), info),
    "actor/x must be a scalar tensor, not 1.0": lambda loss, info: (loss, {**info, "actor/x": 1.0}),
    "actor/x must be a scalar tensor, not of": lambda loss, info: (loss, {**info, "actor/x": loss.expand(2)}),
    "draws random numbers of its own .nn.Dropout": lambda loss, info: (torch.nn.functional.dropout(loss), info),
    "selection_loss is 'actor/bc_loss', but its losses": lambda loss, info: (loss, {"actor/loss": loss.detach()}),
}


def test_losses_are_scalars_and_hold_what_selection_goes_by() -> None:
    """Found before training begins."""
    for message, change in WRONG_LOSSES.items():
        with pytest.raises(ConfigError, match=message):
            Probe(with_loss(change)(), DIMS).check_wiring()


def test_networks_that_change_when_they_are_called_are_refused() -> None:
    class Normed(MLPDenoiser):
        def __init__(self, state_dim: int, action_dim: int) -> None:
            super().__init__(state_dim, action_dim)
            self.norm = torch.nn.BatchNorm1d(action_dim)

        def forward(self, noisy_action: Any, t: Any, state: Any) -> Any:
            return self.norm(super().forward(noisy_action, t, state))

    with pytest.raises(ConfigError, match=r"changes the buffer 'actor.norm.running_mean' of a network .*LayerNorm"):
        Probe(BehaviourCloning(policy=partial(DiffusionPolicy, denoiser=Normed)), DIMS).check_wiring()


def test_an_error_is_placed_in_the_authors_own_code() -> None:
    with pytest.raises(KeyError) as found:
        Probe(with_loss(lambda loss, info: info["nothing"])(), DIMS).check_wiring()
    assert error_place(found.value).startswith(f"{__file__}:")
    with pytest.raises(ConfigError) as raised:
        partial(BehaviourCloning, policy="nobody")().build(DIMS)
    assert "registry.py" in error_place(raised.value)
