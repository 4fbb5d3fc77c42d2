"""What `dqlab list` and `dqlab describe` say of every part, and that its gin example is a gin file."""

from __future__ import annotations

import json
from pathlib import Path

import gin
import pytest
from conftest import ROOT, Run

from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings
from dqlab.config.registry import Registry
from dqlab.diffusion import noise_schedules
from dqlab.errors import ConfigError
from dqlab.testing import CHECKS
from dqlab.tools.describe import (
    components_as_json,
    components_markdown,
    contract,
    describe,
    gin_example,
    is_plain,
)

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


def test_a_gin_example_has_defaults_and_examples_but_nothing_that_the_caller_gives() -> None:
    sources = Registry.kinds["data_source"]
    assert gin_example(sources, sources.entry("file")) == [
        "load_dataset.sources = ('file',)",
        "file.is_d4rl = False",
    ]

    @noise_schedules.register("made_up", source="x", example={"betas": (0.1, 0.2)})
    def made_up(n_timesteps: int, betas: tuple[float, ...], scale: float = 1.5, law: object = len) -> None:
        """Betas as listed."""

    try:
        assert gin_example(noise_schedules, noise_schedules.entry("made_up")) == [
            "DiffusionPolicy.schedule = 'made_up'",
            "made_up.betas = (0.1, 0.2)",
            "made_up.scale = 1.5",
        ]
    finally:
        noise_schedules.remove("made_up")


def test_a_family_is_a_line_in_lists_and_all_its_names_in_json(in_process: Run) -> None:
    shown = in_process("list", "task", env={"COLUMNS": "80"}).stdout
    listed = " ".join(shown.split())
    assert "\n  cube-(single|double|triple|quadruple)-(play|noisy)" in shown
    assert "48 names, such as cube-" in listed
    assert "\n  mujoco-inverteddoublependulum-expert-v0\n" in shown, "no name is cut"
    assert listed.count("cube-") < 6
    names = [part["name"] for part in json.loads(in_process("list", "task", "--json").stdout)]
    assert len([name for name in names if name.startswith("cube-single-play-singletask")]) == 6
    assert len(names) == len(set(names)) > 282


def test_an_ambiguous_gin_name_is_qualified() -> None:
    @noise_schedules.register("SoftmaxQ", source="x")
    def SoftmaxQ(n_timesteps: int, scale: float = 1.5) -> None:  # noqa: N802
        """The name of a selection, too."""

    try:
        line = gin_example(noise_schedules, noise_schedules.entry("SoftmaxQ"))[1]
        assert line == "noise_schedule.SoftmaxQ.scale = 1.5"
        gin_files.load_gin([], [line])
    finally:
        noise_schedules.remove("SoftmaxQ")


def test_plain_values_are_those_that_gin_files_can_say() -> None:
    assert all(map(is_plain, (1, -0.5, "a'b", None, True, (1, "x"), [1], {"a": (1,)})))
    assert not any(map(is_plain, (float("nan"), float("inf"), len, object(), (len,), {1}, 1j)))


def test_json_has_all_of_every_part() -> None:
    known = {(part["kind"], part["name"]): part for part in json.loads(components_as_json(None))}
    assert len(known) == sum(len(registry.names()) for registry in Registry.kinds.values())
    assert all(part["summary"] and part["source"] for part in known.values())
    vp = known["noise_schedule", "vp"]
    assert vp["gin_name"] == "vp"
    assert vp["summary"] == vp["docstring"].splitlines()[0]
    assert vp["parameters"] == [
        {"name": "n_timesteps", "annotation": "int", "set_by": "caller"},
        {"name": "beta_min", "annotation": "float", "set_by": "gin", "default": 0.1},
        {"name": "beta_max", "annotation": "float", "set_by": "gin", "default": 10.0},
    ]
    assert vp["source"].startswith("Xiao et al. 2022")
    assert vp["place"].startswith("dqlab.diffusion.schedules:")
    assert vp["package"] == "dqlab"
    assert vp["gin_example"] == ["DiffusionPolicy.schedule = 'vp'", "vp.beta_min = 0.1", "vp.beta_max = 10.0"]
    assert known["data_source", "embedded"]["parameters"][2] == {
        "name": "progress",
        "annotation": "Progress",
        "set_by": "caller",
        "default": "no_progress",
    }
    assert known["task", "hopper-medium-v2"]["gin_example"] == ["Experiment.task = 'hopper-medium-v2'"]


def test_a_contract_comes_from_the_base_class_or_from_the_call() -> None:
    def contract_of(kind: str, name: str) -> list[str]:
        return contract(Registry.kinds[kind], Registry.kinds[kind].entry(name))

    selection = contract_of("selection", "softmax_q")
    assert "made as Component(), derived from dqlab.policies.selection.Selection" in selection
    assert any(line.startswith("must define component(candidates, q, noise, value): ") for line in selection)
    assert "called as component(n_timesteps)" in contract_of("noise_schedule", "vp")
    denoiser = contract_of("denoiser", "mlp")
    assert "made as Component(state_dim, action_dim), such as MLPDenoiser" in denoiser
    assert any(line.startswith("forward(noisy_action, t, state): ") for line in denoiser)
    assert "\n\nInherited:\n  own_physics: " in describe("env_backend", "d4rl")


def test_unknown_kinds_and_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown kind 'noise_schedul'. Did you mean 'noise_schedule'"):
        describe("noise_schedul", "vp")
    with pytest.raises(ConfigError, match="Unknown noise_schedule 'vq'. Did you mean 'vp'"):
        describe("noise_schedule", "vq")
    for text in (components_as_json, components_markdown):
        with pytest.raises(ConfigError, match="Did you mean 'sampler'"):
            text("samplr")
    with pytest.raises(ConfigError, match="Did you mean 'algorithm diffusion_ql'"):
        describe("DiffusionQL", "vp")


def test_the_doors_print_it(in_process: Run) -> None:
    assert ["early_stop", "3"] in [line.split()[:2] for line in in_process("list").stdout.splitlines()]
    listed = in_process("list", "early_stop", "--json")
    assert [part["name"] for part in json.loads(listed.stdout)] == ["never", "official", "patience"]
    assert in_process("describe", "noise_schedule", "vp").stdout == describe("noise_schedule", "vp") + "\n"
    assert in_process("describe", "noise_schedule", "vpp").stderr == (
        "dqlab: error: Unknown noise_schedule 'vpp'. Did you mean 'vp'? Known: cosine, exponential, karras, linear, "
        "listed, sigmoid, sqrt, vp. If a plugin has it: --plugin MODULE.\n"
    )
    text = (ROOT / "docs" / "components.md").read_text()
    assert text == in_process("list", "--markdown").stdout, "docs/components.md is stale: run `make components`"
    assert str(ROOT) not in text


def test_components_are_those_of_dqlab_alone_in_whole_tables() -> None:
    before = components_markdown()

    @noise_schedules.register("mine", source="a | b")
    def mine(n_timesteps: int) -> None:
        """|x| * <y>, as `a*b`."""

    strange: Registry[object] = Registry("strange_kind", "From elsewhere.")
    try:
        assert components_markdown() == before
        object.__setattr__(noise_schedules.entries["mine"], "place", "dqlab.made:1")
        assert "| `mine` | \\|x\\| \\* \\<y>, as `a*b`. | a \\| b |" in components_markdown("noise_schedule")
    finally:
        noise_schedules.remove("mine")
        del Registry.kinds[strange.kind]
