"""What `dqlab list` and `dqlab describe` say of every part, and that its gin example is a gin file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gin
import pytest
from conftest import ROOT, Run, refused

from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.diffusion import noise_schedules
from dqlab.testing import CHECKS
from dqlab.tools.describe import components_as_json, components_markdown, contract, describe, gin_example, is_plain

noise_schedules.names()  # fills the registries


@pytest.mark.parametrize("kind", sorted(Registry.kinds))
def test_every_gin_example_is_a_gin_file_and_every_part_is_described(kind: str, tmp_path: Path) -> None:
    registry = Registry.kinds[kind]
    for entry in registry:
        lines = gin_example(registry, entry)
        assert len(lines) >= bool(registry.chosen_by)
        path = tmp_path / "example.gin"
        path.write_text("\n".join(lines))
        gin_files.load_gin([path])
        if registry.chosen_by:
            assert entry.name in gin.query_parameter(registry.chosen_by)  # the name, or a tuple that has it
        assert len(parse_bindings(gin.config_str())) == len(lines)
        text, said = describe(kind, entry.name), contract(registry, entry)
        assert all(line in text for line in (entry.summary, entry.source, *lines, *said))
        assert said[0] == registry.summary
        assert said[-1].startswith("dqlab.testing.check: ") == (kind in CHECKS)
        assert not [line for line in said if line.endswith((":", ": "))]


@contextmanager
def registered(component: Callable[..., None], **facts: Any) -> Iterator[RegistryEntry[Any]]:
    """Within this, there is such a noise schedule."""
    noise_schedules.register(component.__name__, **facts)(component)
    try:
        yield noise_schedules.entry(component.__name__)
    finally:
        noise_schedules.remove(component.__name__)


def test_a_gin_example_has_defaults_and_examples_but_nothing_that_the_caller_gives() -> None:
    def made_up(n_timesteps: int, betas: tuple[float, ...], scale: float = 1.5, law: object = len) -> None:
        """Betas as listed."""

    def SoftmaxQ(n_timesteps: int, scale: float = 1.5) -> None:  # noqa: N802
        """The name of a selection, too."""

    with registered(made_up, source="x", example={"betas": (0.1, 0.2)}) as entry:
        choice, *lines = gin_example(noise_schedules, entry)
    assert choice == "DiffusionPolicy.schedule = 'made_up'"
    assert lines == ["made_up.betas = (0.1, 0.2)", "made_up.scale = 1.5"]
    with registered(SoftmaxQ, source="x") as entry:
        line = gin_example(noise_schedules, entry)[1]
        assert line == "noise_schedule.SoftmaxQ.scale = 1.5"
        gin_files.load_gin([], [line])
    assert all(map(is_plain, (1, -0.5, "a'b", None, True, (1, "x"), [1], {"a": (1,)})))
    assert not any(map(is_plain, (float("nan"), float("inf"), len, object(), (len,), {1}, 1j)))


def test_json_has_all_of_every_part() -> None:
    known = {(part["kind"], part["name"]): part for part in json.loads(components_as_json(None))}
    assert len(known) == sum(len(registry.names()) for registry in Registry.kinds.values())
    assert all(part["summary"] and part["source"] for part in known.values())
    vp = known["noise_schedule", "vp"]
    assert vp["parameters"] == [
        {"name": "n_timesteps", "annotation": "int", "set_by": "caller"},
        {"name": "beta_min", "annotation": "float", "set_by": "gin", "default": 0.1},
        {"name": "beta_max", "annotation": "float", "set_by": "gin", "default": 10.0},
    ]
    assert (vp["gin_name"], vp["package"], vp["summary"]) == ("vp", "dqlab", vp["docstring"].splitlines()[0])
    assert vp["source"].startswith("Xiao et al. 2022")
    assert vp["place"].startswith("dqlab.diffusion.schedules:")
    assert vp["gin_example"] == ["DiffusionPolicy.schedule = 'vp'", "vp.beta_min = 0.1", "vp.beta_max = 10.0"]
    progress = {"name": "progress", "annotation": "Progress", "set_by": "caller", "default": "no_progress"}
    assert known["data_source", "embedded"]["parameters"][2] == progress


def test_a_contract_comes_from_the_base_class_or_from_the_call() -> None:
    """Of methods it has dqlab's own docstrings, none of PyTorch's."""
    for kind, name, *lines in (
        ("selection", "softmax_q", "made as Component(), derived from dqlab.policies.selection.Selection"),
        ("selection", "softmax_q", "must define __call__(candidates, q, noise, value): "),
        ("noise_schedule", "vp", "called as component(n_timesteps)\n"),
        ("denoiser", "mlp", "made as Component(state_dim, action_dim), such as MLPDenoiser\n"),
        ("denoiser", "mlp", "forward(noisy_action, t, state)\n", "denoise(noisy_action, index, prepared)\n"),
        ("env_backend", "d4rl", "own_physics: "),
    ):
        assert all(f"\n  {line}" in describe(kind, name) for line in lines), lines


def test_the_doors_print_it(in_process: Run) -> None:
    """A family is a line in lists, and all its names in JSON; what is unknown gets the nearest names."""
    assert ["early_stop", "3"] in [line.split()[:2] for line in in_process("list").stdout.splitlines()]
    shown = in_process("list", "task", env={"COLUMNS": "80"}).stdout
    listed = " ".join(shown.split())
    assert "\n  cube-(single|double|triple|quadruple)-(play|noisy)" in shown
    assert "48 names, such as cube-" in listed
    assert "\n  mujoco-inverteddoublependulum-expert-v0\n" in shown, "no name is cut"
    assert listed.count("cube-") < 6
    names = [part["name"] for part in json.loads(in_process("list", "task", "--json").stdout)]
    assert len([name for name in names if name.startswith("cube-single-play-singletask")]) == 6
    assert len(names) == len(set(names)) > 282
    assert in_process("describe", "noise_schedule", "vp").stdout == describe("noise_schedule", "vp") + "\n"
    known = "Known: cosine, exponential, karras, linear, listed, sigmoid, sqrt, vp."
    refused(in_process("describe", "noise_schedule", "vpp"), f"'vpp'. Did you mean 'vp'? {known}")
    refused(
        in_process("describe", "noise_schedul", "vp"), "Unknown kind 'noise_schedul'. Did you mean 'noise_schedule'"
    )
    refused(in_process("describe", "DiffusionQL", "vp"), "Did you mean 'algorithm diffusion_ql'")
    refused(in_process("list", "samplr", "--markdown"), "Did you mean 'sampler'")


def test_the_page_of_components_is_of_dqlabs_alone(in_process: Run) -> None:
    def mine(n_timesteps: int) -> None:
        """|x| * <y>, as `a*b`."""

    strange: Registry[object] = Registry("strange_kind", "From elsewhere.")
    text = (ROOT / "docs" / "components.md").read_text()
    try:
        with registered(mine, source="a | b") as entry:
            assert text == in_process("list", "--markdown").stdout, "docs/components.md is stale: run `make components`"
            object.__setattr__(entry, "place", "dqlab.made:1")
            assert "| `mine` | \\|x\\| \\* \\<y>, as `a*b`. | a \\| b |" in components_markdown("noise_schedule")
    finally:
        del Registry.kinds[strange.kind]
    assert str(ROOT) not in text
