"""Plugins: a broken one is skipped by name and leaves nothing, as is the second one that claims a name."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gin
import numpy as np
import pytest
import torch
from conftest import ROOT, Run, bindings, isolated, refused
from made_packs import small_run

import dqlab as library
from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.config.gin_state import configurables
from dqlab.config.plugins import all_or_nothing, load_plugins
from dqlab.config.registry import Registry
from dqlab.diffusion import noise_schedules
from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError
from dqlab.policies import selections
from dqlab.policies.selection import Single
from dqlab.testing import check_plugin

SCHEDULE = '''
import torch
from dqlab.diffusion import noise_schedules

@noise_schedules.register("{name}", source="mine")
def {function}(n_timesteps: int, beta: float = 0.3) -> torch.Tensor:
    """The same beta at every step."""
    return torch.full((n_timesteps,), beta, dtype=torch.float64)
'''


QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--steps", "10", "-q"]


def schedule(function: str, name: str = "flat") -> str:
    return SCHEDULE.format(function=function, name=name)


def install(folder: Path, name: str, code: str, point: str = "") -> dict[str, str]:
    """Lay a distribution with a `dqlab.plugins` entry point where Python finds it; returns the environment."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[dqlab.plugins]\n{name} = {point or name}\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose distributions this process sees; all that they register is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    noise_schedules.names()
    with suppress(InterruptedError), all_or_nothing("made_up"):
        yield tmp_path
        raise InterruptedError
    for module in {path.stem for path in tmp_path.glob("*.py")} & set(sys.modules):
        del sys.modules[module]
    importlib.invalidate_caches()


def test_a_component_is_a_gin_configurable_until_it_is_removed() -> None:
    """Then both its names are free, so that a notebook's cell can be run again."""
    for beta in (0.1, 0.2):

        @noise_schedules.register("cell", source="x")
        def cell(n_timesteps: int, beta: float = beta) -> torch.Tensor:
            """The same beta at every step."""
            return torch.full((n_timesteps,), beta, dtype=torch.float64)

        gin_files.load_gin([])
        assert float(build_betas("cell", 1)) == pytest.approx(beta)
        gin_files.load_gin([], ["cell.beta = 0.7"])
        assert float(build_betas("cell", 1)) == 0.7
        gin.clear_config()
        noise_schedules.remove("cell")
    with pytest.raises(ConfigError, match="nothing is called 'cell'"):
        gin_files.load_gin([], ["cell.beta = 0.3"])


def test_a_docstring_is_a_components_own() -> None:
    """Neither its base class's nor a dataclass's list of fields."""

    @dataclass(frozen=True)
    class Bare(Single):
        width: int = 3

    selections.register("bare")(Bare)
    entry = selections.entry("bare")
    selections.remove("bare")
    assert (entry.docstring, entry.summary, entry.module) == ("", "", __name__)


@pytest.mark.parametrize("named", [["--plugin", "my_plugin"], []], ids=["named", "installed"])
def test_a_ten_line_plugin(dqlab: Run, tmp_path: Path, named: list[str]) -> None:
    """By --plugin, which the stored config knows, or by its entry point alone; for training, eval and a resume."""
    (tmp_path / "my_plugin.py").write_text(schedule("flat"))
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"} if named else install(tmp_path, "my_plugin", schedule("flat"))
    args = [*QUICK, *named, "--out", "run", *bindings("DiffusionPolicy.schedule=flat", "flat.beta=0.2")]
    trained, evaluated = dqlab(*args, env=env), dqlab("eval", "run", env=env)
    assert (trained.returncode, evaluated.returncode) == (0, 0), trained.stderr + evaluated.stderr
    stored = (tmp_path / "run" / "config.gin").read_text()
    assert stored.startswith("import my_plugin") == bool(named)
    assert "flat.beta = 0.2" in stored
    facts = tmp_path / "run" / "run.json"
    facts.write_text(facts.read_text().replace('"finished"', '"interrupted"'))
    (tmp_path / "my_plugin.py").write_text(schedule("flat").replace("(n_timesteps,), beta", "(n_timesteps,), beta / 2"))
    again = dqlab(*args, "--resume", env=env)
    assert (again.returncode, "my_plugin has changed since the run began" in again.stderr) == (0, True), again.stderr


def test_an_import_line_in_a_gin_file(in_process: Run, here: Path) -> None:
    """Without it, or --plugin, the name is unknown; its parameters are strict, too."""
    (here / "my_plugin.py").write_text(schedule("flat"))
    refused(in_process(*QUICK, *bindings("DiffusionPolicy.schedule=flat")), "'flat'", "has it: --plugin MODULE")
    (here / "mine.gin").write_text(f"import my_plugin\ninclude '{QUICK[2]}'\nflat.betta = 0.1\n")
    refused(in_process("train", "--gin", "mine.gin"), "mine.gin:3: 'flat' has no parameter 'betta'")


def test_a_plugin_that_lies_here_is_found(tmp_path: Path) -> None:
    """By the installed command, to which Python does not add the current folder."""
    (tmp_path / "my_plugin.py").write_text(schedule("flat"))
    command = [Path(sys.executable).with_name("dqlab"), "list", "noise_schedule", "--plugin", "my_plugin"]
    done = subprocess.run(command, cwd=tmp_path, env=isolated(tmp_path), capture_output=True, text=True, timeout=240)
    assert "The same beta at every step." in done.stdout, done.stderr
    assert "beta=0.3" in done.stdout


FAILURES = {
    "raise RuntimeError('no licence')": "RuntimeError('no licence')",
    "import sys; sys.exit(3)": "SystemExit(3)",
    schedule("other"): "'flat' is taken twice: by broken",
    schedule("flat", "another"): "gin name 'noise_schedule.flat' is taken twice: by broken",
    schedule("other", "two words"): "'two words' is no name for a noise_schedule",
    "noise_schedules.register('x')(lambda n: n)": "Configurable name '<lambda>' is invalid",
}


@pytest.mark.parametrize(("code", "message"), FAILURES.items(), ids=FAILURES.values())
def test_nothing_of_a_broken_plugin_stays(
    code: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not its components, configurables or modules, nor on stdout what it prints; a mended one then loads."""
    more = '\nfrom dqlab.config.registry import Registry, configurable\nkind = Registry("broken_kind", "New.")\n'
    more += "@configurable('mine')\ndef mine(x=1): pass\nimport broken_friend\nprint('I begin')\n"
    (here / "broken_friend.py").write_text(schedule("friendly", "friendly"))
    install(here, "a_good_plugin", schedule("good", "good"))
    install(here, "broken_plugin", schedule("flat") + more + code)
    gin_files.load_gin([], ["vp.beta_max = 20.0"])  # gin locks its registry then
    names, selectors, kinds = set(noise_schedules.names()), set(configurables()), set(Registry.kinds)
    load_plugins()
    assert gin.query_parameter("vp.beta_max") == 20.0
    said = capsys.readouterr()
    warning = said.err.splitlines()[-1]
    assert (said.out, "Traceback" in said.err) == ("", False)
    assert warning.startswith("dqlab: warning: plugin 'broken_plugin' (broken_plugin) is skipped: ")
    assert message in warning
    assert set(noise_schedules.names()) - names == {"good"}
    assert set(configurables()) - selectors == {"noise_schedule.good"}
    assert set(Registry.kinds) == kinds
    assert not {"broken_plugin", "broken_friend"} & set(sys.modules)
    (here / "broken_plugin.py").write_text(schedule("flat") + "# mended, and of another length\n")
    importlib.invalidate_caches()
    load_plugins()
    assert "flat" in noise_schedules


def test_what_dqlab_registers_while_a_plugin_fails_stays() -> None:
    """The plugin is the first to import a module of dqlab's; the module stays imported, so its parts must stay."""
    code = schedule("made_up", "made_up") + "1 / 0"
    with pytest.raises(ZeroDivisionError), all_or_nothing("broken_plugin"):
        exec(code, {"__name__": "dqlab.made_up"})
    assert "noise_schedule.made_up" in configurables()
    noise_schedules.remove("made_up")


def test_of_two_plugins_that_claim_one_name_the_second_is_skipped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(here, "plugin_one", schedule("flat_one"))
    install(here, "plugin_two", schedule("own_two", "own_two") + schedule("flat_two"))
    assert main(["list", "--json"]) == 0
    said = capsys.readouterr()
    both = "The noise_schedule name 'flat' is taken twice: by plugin_one:5 and by plugin_two:13. Rename one of them."
    assert said.err == f"dqlab: warning: plugin 'plugin_two' (plugin_two) is skipped: {both}\n"
    foreign = [part for part in json.loads(said.out) if part["package"] != "dqlab"]
    assert [(part["name"], part["gin_name"]) for part in foreign] == [("flat", "flat_one")]


@pytest.mark.parametrize("how", ["installed", "--plugin", "gin"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit(0)"),
        (schedule("flat", "vp"), "The noise_schedule name 'vp' is taken twice: by dqlab.diffusion.schedules:"),
        (schedule("vp", "my_vp"), "The gin name 'noise_schedule.vp' is taken twice: by dqlab.diffusion.schedules:"),
    ],
)
def test_a_module_that_is_named_must_load_and_an_installed_one_is_skipped(
    here: Path, capsys: pytest.CaptureFixture[str], how: str, code: str, message: str
) -> None:
    (here / "mine.py").write_text(schedule("own", "own") + code)
    (here / "mine.gin").write_text("import mine\n")
    if how == "installed":
        install(here, "mine", schedule("own", "own") + code)
    named = ["--plugin", "mine"] if how == "--plugin" else []
    args = ["train", "--gin", str(here / "mine.gin")] if how == "gin" else ["list", "noise_schedule", *named]
    assert main(args) == (0 if how == "installed" else 2)
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert ("plugin 'mine' (mine) is skipped: " in error) == (how == "installed")
    assert "own" not in noise_schedules or how != "installed"
    assert noise_schedules.entry("vp").package == "dqlab"


def test_a_run_of_a_plugins_is_loaded_in_python_as_by_commands(here: Path) -> None:
    """By its entry point, whatever was called before; one that is not installed is named, and can be."""
    install(here, "own_plugin", schedule("flat_one"))
    run = small_run(here, "DiffusionPolicy.schedule = 'flat'")

    def forget() -> None:
        noise_schedules.remove("flat")
        del sys.modules["own_plugin"]

    forget()
    assert library.load_policy(run)(np.zeros(17)).shape == (6,)
    forget()
    shutil.rmtree(here / "own_plugin-0.1.dist-info")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="The run had own_plugin, which nothing has imported here"):
        library.evaluate(run)
    assert len(library.evaluate(run, plugins=["own_plugin"])) == 1
    code = "from dqlab.policies import selections\nfrom dqlab.policies.selection import Single\n"
    install(here, "plain", code + "selections.register('plain', source='mine')(type('Plain', (Single,), {}))\n")
    (here / "second").mkdir()
    run = small_run(here / "second", "DiffusionQL.selection = 'plain'")  # a component without parameters
    selections.remove("plain")
    del sys.modules["plain"]
    shutil.rmtree(here / "plain-0.1.dist-info")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="`plugins` MODULE.* The run had plain, which nothing has imported"):
        library.load_policy(run)


def test_check_names_each_component_that_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, and what a plugin's own tests call; no source is a failure, too."""
    code = schedule("flat") + schedule("bad", "bad").replace("beta,", "2.0,") + schedule("bare", "bare")
    install(here, "mixed_plugin", code.replace('"bare", source="mine"', '"bare"'))
    with pytest.raises(AssertionError) as caught:
        check_plugin("mixed_plugin")
    head, *failures = str(caught.value).splitlines()
    assert head == "2 of the components of 'mixed_plugin' fail:"
    assert main(["check", "mixed_plugin"]) == 1
    *said, good = capsys.readouterr().out.splitlines()
    assert good == "noise_schedule 'flat': ok"
    for bad, bare in (failures, said):
        assert bad.startswith("noise_schedule 'bad': Noise schedule")
        assert bare.startswith("noise_schedule 'bare': no source: ")
    assert "inside (0, 1)" in failures[0]


def test_check_finds_a_plugin_by_entry_point_distribution_or_module(here: Path, in_process: Run) -> None:
    (here / "parts").mkdir()
    (here / "parts" / "__init__.py").write_text("")
    (here / "parts" / "one.py").write_text(schedule("flat"))
    install(here, "the_plugin", "", point="parts.one")
    (here / "not_installed.py").write_text(schedule("other", "other").replace("beta,", "-1.0,"))
    for name in ("the_plugin", "the-plugin", "parts", "parts.one"):
        assert in_process("check", name).stdout == "noise_schedule 'flat': ok\n"
    assert "'other': Noise schedule" in in_process("check", "not_installed").stdout
    install(here, "empty_plugin", "")
    install(here, "broken_plugin", "1 / 0")
    assert "'empty_plugin' registers nothing" in in_process("check", "empty_plugin").stderr
    assert "'broken_plugin' fails when it is imported: ZeroDivisionError" in in_process("check", "broken_plugin").stderr
    said = in_process("check", "empty_plugn")
    assert (said.returncode, "no plugin or module 'empty_plugn'. Did you mean 'empty_plugin'" in said.stderr) == (
        2,
        True,
    )


def test_a_package_that_is_not_installed_yet_is_named(dqlab: Run) -> None:
    """The commands as the README has them, one after the other: Python would import the folder as an empty package."""
    assert dqlab("new-plugin", "mylab").returncode == 0
    said = "no plugin or module 'mylab'. The folder of that name here is not installed: pip install -e mylab"
    refused(dqlab("check", "mylab"), said)
