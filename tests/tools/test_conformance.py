"""Every registered component passes its kind's conformance suite; of broken ones the suite says what is wrong.

Other mistakes that authors make are found before training begins, in words that help.
"""

# Annotations are not postponed here, as they need not be in a plugin.

import sys
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
from torch.nn.functional import dropout

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.config.registry import Registry
from dqlab.data.formats.arrays import Npz
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.diffusion import noise_schedules
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DqlabError, error_place
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.precision import Precision
from dqlab.policies.base import Dims
from dqlab.policies.selection import Argmax
from dqlab.testing import CHECKS, check, examine
from dqlab.tools.collect.behaviours import PythonFunction, UniformRandom
from dqlab.tools.conformance.data import check_prepared_behaviour, made_context
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


class RollingSelection:
    """Rolls its own dice."""

    n_candidates = 50

    def noise(self, batch: int) -> dict[str, object]:
        return {}

    def __call__(self, candidates: torch.Tensor, q: torch.Tensor, noise: object) -> torch.Tensor:
        return torch.randint(0, 50, (candidates.shape[1],))


def spoilt(base: type, method: str, spoil: Any) -> type:
    """A class with a method that calls the sound one, its first argument, and does wrong."""

    def wrong(self: Any, *given: Any) -> Any:
        return spoil(partial(getattr(base, method), self), *given)

    return type("Spoilt", (base,), {method: wrong})


def with_shared_states(sound: Any, which: Sequence[int], actions: Any) -> Any:
    stepped = sound(which, actions)
    return replace(stepped, state=stepped.state + len(which))


def without_rewards(sound: Any, which: Sequence[int], actions: Any) -> Any:
    return replace(sound(which, actions), reward=np.full(len(which), np.nan))


COUNT = iter(range(10**9))


def unseeded(sound: Any, seeds: Sequence[int], groups: Sequence[int]) -> Any:
    return sound([int(seed) + next(COUNT) for seed in seeds], groups)


def rounding(sound: Any, path: Path, columns: Any) -> None:
    sound(path, replace(columns, rewards=columns.rewards.round(1)))


class Credulous(Npz):
    """What is damaged is taken for an older dataset."""

    def read(self, path: Path) -> Any:
        with suppress(DqlabError):
            self.last = super().read(path)
        return self.last


class Lasting(Precision):
    """Never ends."""

    def region(self, device: torch.device) -> Any:
        torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
        return nullcontext()


class Loose(Precision):
    """Says float32, and rounds to three bits."""

    @contextmanager
    def region(self, device: torch.device) -> Iterator[None]:
        rounded = torch.nn.Linear.forward
        torch.nn.Linear.forward = lambda layer, x: (rounded(layer, x) * 8).round() / 8  # type: ignore[method-assign]
        yield
        torch.nn.Linear.forward = rounded  # type: ignore[method-assign]


def scaled(factor: float, *names: str) -> Any:
    """A physics law that changes these arrays of a model."""

    def law(model: Any, body: Any) -> None:
        for name in names:
            getattr(model, name)[:] *= factor

    return law


def narrow(task: Task, argument: str, progress: Any) -> LocatedDataset:
    found = data_sources.get("bandit")(tasks.get("bandit-2d"), "", progress)
    assert found.rows is not None
    return replace(found, rows=replace(found.rows, actions=found.rows.actions[:][:, :1]))


def with_loss(change: Any) -> Any:
    return spoilt(BehaviourCloning, "actor_loss", lambda sound, *given: change(*sound(*given)))


class Undecorated(Argmax):
    n_candidates: int = 7


def reads_the_loss(loss: torch.Tensor, info: Any) -> Any:
    return loss * (1.0 if float(loss) > 0 else 2.0), info


CASES = [
    ("noise_schedule", lambda n: torch.full((n,), 2.0, dtype=torch.float64), r"inside \(0, 1\)"),
    ("selection", RollingSelection, "random numbers of its own"),
    (
        "behaviour",
        spoilt(UniformRandom, "begin", lambda *_: lambda seen: default_rng().uniform(-1, 1, (1, 3))),
        "begun again, act otherwise",
    ),
    (
        "behaviour",
        spoilt(UniformRandom, "begin", lambda sound, seed: lambda seen: 3 * sound(seed)(seen)),
        r"out of \[-1, 1\]",
    ),
    ("task", replace(HOPPER, state_dim=12), "width 11; its task says 12"),
    ("task", replace(HOPPER, min_score=9000.0), "max_score must be larger"),
    ("task", replace(HOPPER, env_id="Nowhere-v0"), "Cannot build Nowhere-v0"),
    ("physics", scaled(0.0, "body_mass"), "a mass is not positive"),
    ("physics", scaled(0.1, "geom_friction"), "it changes geom_friction"),
    ("physics", scaled(2.0, "body_mass", "body_inertia"), "a mass of 14.0 kg becomes 28.00"),
    ("env_backend", spoilt(GymnasiumEnvironments, "reset", unseeded), "begun again, goes otherwise"),
    (
        "env_backend",
        spoilt(GymnasiumEnvironments, "step", with_shared_states),
        "a step depends on the other environments",
    ),
    ("env_backend", spoilt(GymnasiumEnvironments, "step", without_rewards), "begun again, goes otherwise"),
    ("data_source", lambda *_: "walker2d.hdf5", "gives a str instead of a LocatedDataset"),
    ("data_source", narrow, "observations of .*: shape"),
    ("data_format", spoilt(Npz, "write", rounding), "reward is read back with other values"),
    ("data_format", Credulous, "a dataset that is damaged is read"),
    ("reward_transform", lambda reward, returns: reward * 2.0**0.5 + np.zeros(1), "it gives float64 for float32"),
    ("reward_transform", lambda reward, returns: reward[:-1], "it gives"),
    ("reward_transform", lambda reward, returns: reward / np.ptp(reward), "not finite"),
    ("offline_rule", lambda losses, top_k: top_k, "of 1 losses with top_k = 1"),
    ("offline_rule", lambda losses, top_k: np.argmin(losses), "an index must be an int"),
    ("early_stop", lambda losses: losses.append(0.0) or False, "it writes into its arguments"),
    ("early_stop", lambda losses: losses[-1] < 0.3, "whose last loss is higher"),
    ("early_stop", lambda losses: len(losses) > 6, "each has the lowest loss so far"),
    ("precision", Lasting, "it outlives its context"),
    ("precision", Loose, "values are off by"),
    ("selection", Undecorated, "decorate the class with @dataclass"),
    (
        "denoiser",
        spoilt(MLPDenoiser, "forward", lambda sound, x, *more: sound(x.clamp_(-0.1, 0.1), *more)),
        "it writes into its arguments",
    ),
    (
        "denoiser",
        spoilt(MLPDenoiser, "forward", lambda sound, x, *more: sound(dropout(x), *more)),
        "it draws random numbers of its own",
    ),
    ("algorithm", with_loss(reads_the_loss), "item"),
    (
        "algorithm",
        spoilt(BehaviourCloning, "sample_action", lambda sound, *given: sound(*given) * torch.nan),
        "sample_action differs when packed",
    ),
]


@pytest.mark.parametrize(
    ("kind", "component", "message"), CASES, ids=[f"{kind}-{message}" for kind, _, message in CASES]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_suite_says_what_is_broken(kind: str, component: Any, message: str) -> None:
    Registry.kinds[kind].add("broken", component, summary="Broken.", source="no paper")
    try:
        with pytest.raises((AssertionError, ConfigError, RuntimeError), match=message):
            check(kind, "broken")
    finally:
        Registry.kinds[kind].remove("broken")
        torch.set_autocast_enabled("cpu", False)


def test_an_undocumented_component_is_caught() -> None:
    noise_schedules.add("silent", lambda n: torch.full((n,), 0.5, dtype=torch.float64))
    try:
        with pytest.raises(AssertionError, match="summary"):
            check("noise_schedule", "silent")
    finally:
        noise_schedules.remove("silent")


POLICY = """
def steady(observation, generator):
    return 0.1 * observation[:3].clip(-1, 1)


def forgetful(observation, generator, seen=[]):
    seen.append(observation)
    return 0.1 * seen[0][:3].clip(-1, 1) * len(seen) % 1
"""


def test_a_behaviour_with_an_argument_is_checked_once_it_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_policies.py").write_text(POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for name, message in (("steady", ""), ("forgetful", "act otherwise")):
            behaviour = PythonFunction(f"two_policies:{name}", made_context(tmp_path))
            behaviour.prepare()
            with pytest.raises(AssertionError, match=message) if message else nullcontext():
                check_prepared_behaviour(behaviour)
    finally:
        sys.modules.pop("two_policies", None)


PLUGIN = '''
from dqlab.diffusion import noise_schedules
from dqlab.envs.backend import GymnasiumEnvironments, env_backends
from dqlab.errors import ConfigError, error_place
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.training.model_selection import offline_rules


@offline_rules.register("middle_rule", source="no paper")
def middle_rule(losses, top_k):
    """The evaluation in the middle."""
    return len(losses) // 2


@offline_rules.register("late_rule", source="no paper")
def late_rule(losses, top_k):
    """The evaluation after the last."""
    return len(losses)


@env_backends.register("remote_backend", source="no paper")
class RemoteBackend(GymnasiumEnvironments):
    """On a machine that is not there."""

    def prepare(self, count):
        raise ConfigError("There is no such machine.")
'''


def test_a_plugins_components_are_examined_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "selecting_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = {each.name: (each.trouble, each.skipped) for each in examine("selecting_plugin")}
    finally:
        sys.modules.pop("selecting_plugin", None)
        for kind, name in (("offline_rule", "middle_rule"), ("offline_rule", "late_rule")):
            Registry.kinds[kind].remove(name)
        Registry.kinds["env_backend"].remove("remote_backend")
    assert found == {
        "middle_rule": ("", ""),
        "late_rule": ("it takes evaluation 1 of 1 losses with top_k = 0", ""),
        "remote_backend": ("", "There is no such machine."),
    }


@dataclass(frozen=True)
class Scaled(BehaviourCloning):
    """A float field of its own."""

    scale: float = 2.0

    def actor_loss(self, dims: Dims, nets: Any, batch: Any, noise: Any, hyper: Any) -> Any:
        loss, info = super().actor_loss(dims, nets, batch, noise, hyper)
        return hyper["scale"] * loss, info


def test_fields_are_read_without_postponed_annotations() -> None:
    assert Scaled(scale=3.0).hyper() == {"learning_rate": 3e-4, "scale": 3.0}
    with pytest.raises(ConfigError, match="Scaled.scale must be of type float, not 'high'"):
        Scaled(scale="high")  # type: ignore[arg-type]
    Probe(Scaled(), DIMS).check_wiring()


WRONG_LOSSES: dict[str, Any] = {
    r"the loss of 'actor' must be a scalar tensor, .* \(7,\)": lambda loss, info: (loss.expand(7), info),
    "actor/x must be a scalar tensor, not 1.0": lambda loss, info: (loss, {**info, "actor/x": 1.0}),
    "actor/x must be a scalar tensor, not of": lambda loss, info: (loss, {**info, "actor/x": loss.expand(2)}),
    "selection_loss is 'actor/bc_loss', but its losses": lambda loss, info: (loss, {"actor/loss": loss.detach()}),
}


@pytest.mark.parametrize("message", WRONG_LOSSES)
def test_losses_are_scalars_and_hold_what_selection_goes_by(message: str) -> None:
    """Found before training begins."""
    with pytest.raises(ConfigError, match=message):
        Probe(with_loss(WRONG_LOSSES[message])(), DIMS).check_wiring()


def test_an_error_is_placed_in_the_authors_own_code() -> None:
    def fails(loss: torch.Tensor, info: Any) -> Any:
        return info["nothing"]

    with pytest.raises(KeyError) as found:
        Probe(with_loss(fails)(), DIMS).check_wiring()
    assert error_place(found.value).startswith(f"{__file__}:")
    with pytest.raises(ConfigError) as raised:
        partial(BehaviourCloning, policy="nobody")().build(DIMS)
    assert "registry.py" in error_place(raised.value)
