"""Installed plugins: a broken one is skipped by name and leaves nothing, as is the second one that claims a name."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gin
import pytest
from conftest import ROOT, Run, bindings, refused

from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.config.gin_state import configurables
from dqlab.config.plugins import all_or_nothing, load_plugins
from dqlab.config.registry import Registry
from dqlab.diffusion import noise_schedules
from dqlab.errors import ConfigError
from dqlab.testing import check_plugin

SCHEDULE = '''
import torch
from dqlab.diffusion import noise_schedules

@noise_schedules.register("{name}", source="mine")
def {function}(n_timesteps: int, beta: float = 0.3) -> torch.Tensor:
    """The same beta at every step."""
    return torch.full((n_timesteps,), beta, dtype=torch.float64)
'''


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
    Registry.contested.clear()
    for module in {path.stem for path in tmp_path.glob("*.py")} & set(sys.modules):
        del sys.modules[module]
    importlib.invalidate_caches()


def test_a_run_with_an_installed_plugin_can_be_evaluated(dqlab: Run, tmp_path: Path) -> None:
    """No import line in its config.gin: the entry point alone must do, for training and for eval."""
    env = install(tmp_path, "good_plugin", schedule("flat"))
    listed = dqlab("list", "noise_schedule", env=env).stdout
    assert "The same beta at every step." in listed
    assert "beta=0.3" in listed
    args = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--steps", "10", "--out", "run", "-q"]
    trained = dqlab(*args, *bindings("DiffusionPolicy.schedule=flat", "flat.beta=0.2"), env=env)
    assert trained.returncode == 0, trained.stderr
    assert "import good_plugin" not in (tmp_path / "run" / "config.gin").read_text()
    evaluated = dqlab("eval", "run", env=env)
    assert evaluated.returncode == 0, evaluated.stderr


FAILURES = {
    "an error": ("raise RuntimeError('no licence')", "RuntimeError('no licence')"),
    "an exit": ("import sys; sys.exit(3)", "SystemExit(3)"),
    "a skipped test": ("import pytest; pytest.importorskip('no_such_module')", "could not import 'no_such_module'"),
    "one name twice": (schedule("other"), "'flat' is taken twice: by broken"),
    "one gin name twice": (schedule("flat", "another"), "gin name 'noise_schedule.flat' is taken twice: by broken"),
    "no name": (schedule("other", "two words"), "'two words' is no name for a noise_schedule"),
    "a lambda": ("noise_schedules.register('x')(lambda n: n)", "Configurable name '<lambda>' is invalid"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_nothing_of_a_broken_plugin_stays(how: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not its components, configurables or modules, nor on stdout what it prints; a mended one then loads."""
    code, message = FAILURES[how]
    more = '\nfrom dqlab.config.registry import Registry, configurable\nkind = Registry("broken_kind", "New.")\n'
    more += "@configurable('mine')\ndef mine(x=1): pass\nimport broken_friend\nprint('I begin')\n"
    (here / "broken_friend.py").write_text(schedule("friendly", "friendly"))
    install(here, "a_good_plugin", schedule("good", "good"))
    install(here, "broken_plugin", schedule("flat") + more + code)
    names, selectors, kinds = set(noise_schedules.names()), set(configurables()), set(Registry.kinds)
    load_plugins()
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


def test_of_two_plugins_that_claim_one_name_neither_has_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All else of the first one stays; choosing the name, or the gin name behind it, is an error that names both."""
    install(here, "plugin_one", schedule("flat_one") + schedule("own_one", "own_one"))
    install(here, "plugin_three", schedule("flat_three"))
    install(here, "plugin_two", schedule("own_two", "own_two") + schedule("flat_two"))
    assert main(["list", "--json"]) == 0
    said = capsys.readouterr()
    both = "The noise_schedule name 'flat' is taken twice: by plugin_one:5 and by plugin_three:5. Rename one of them."
    assert [line.partition(": ")[2] for line in said.err.splitlines()] == [
        f"warning: plugin 'plugin_three' (plugin_three) is skipped: {both}",
        f"warning: plugin 'plugin_two' (plugin_two) is skipped: {both} Until then nobody has it.",
    ]
    assert {part["name"] for part in json.loads(said.out) if part["package"] != "dqlab"} == {"own_one"}
    assert "flat" not in noise_schedules
    with pytest.raises(ConfigError, match=re.escape(both)):
        noise_schedules.get("flat")
    for binding in ("flat_one.beta = 0.1", "DiffusionPolicy.schedule = @flat_one"):
        with pytest.raises(ConfigError, match=re.escape(both)):
            gin_files.load_gin([], [binding])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            schedule("flat", "flat_too"),
            r"gin name 'noise_schedule.flat' is taken twice: by plugin_one:5 and by plugin_two",
        ),
        (
            schedule("vp", "my_vp"),
            r"gin name 'noise_schedule.vp' is taken twice: by dqlab.diffusion.schedules:\d+ and by ",
        ),
        (schedule("my_vp", "vp"), r"noise_schedule name 'vp' is taken twice: by dqlab.diffusion.schedules:\d+ and by "),
    ],
)
def test_a_plugin_that_claims_a_gin_name_or_one_of_dqlabs_is_skipped(
    second: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(here, "plugin_one", schedule("flat"))
    install(here, "plugin_two", schedule("own", "own") + second)
    load_plugins()
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"plugin 'plugin_two' \(plugin_two\) is skipped: The {words}.*\. Rename one of ", warning)
    assert "flat" in noise_schedules
    assert "own" not in noise_schedules
    assert noise_schedules.entry("vp").package == "dqlab"


def test_plugins_load_after_a_configuration_was_read(here: Path) -> None:
    """gin locks its registry then."""
    gin_files.load_gin([], ["vp.beta_max = 20.0"])
    install(here, "late_plugin", schedule("flat"))
    load_plugins()
    assert "flat" in noise_schedules
    assert gin.query_parameter("vp.beta_max") == 20.0


@pytest.mark.parametrize("how", ["--plugin", "gin"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "'mine' fails when it is imported: ZeroDivisionError"),
        ("raise SystemExit(0)", "'mine' fails when it is imported: SystemExit(0)"),
        (schedule("flat", "vp"), "The noise_schedule name 'vp' is taken twice: by dqlab.diffusion.schedules:"),
    ],
)
def test_a_module_that_is_named_must_load(
    here: Path, capsys: pytest.CaptureFixture[str], how: str, code: str, message: str
) -> None:
    (here / "mine.py").write_text(code)
    (here / "mine.gin").write_text("import mine\n")
    assert main(["list", "--plugin", "mine"] if how == "--plugin" else ["train", "--gin", str(here / "mine.gin")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_check_plugin_lists_every_part_that_fails(here: Path) -> None:
    code = schedule("flat") + schedule("bad", "bad").replace("beta,", "2.0,") + schedule("bare", "bare")
    code = code.replace('"bare", source="mine"', '"bare"')
    install(here, "mixed_plugin", code)
    with pytest.raises(AssertionError) as caught:
        check_plugin("mixed_plugin")
    head, *failures = str(caught.value).splitlines()
    assert head == "2 of the components of 'mixed_plugin' fail:"
    assert failures[0].startswith("noise_schedule 'bad': Noise schedule")
    assert "inside (0, 1)" in failures[0]
    assert failures[1].startswith("noise_schedule 'bare': no source: ")


def test_check_plugin_finds_a_plugin_by_entry_point_distribution_or_module(here: Path) -> None:
    (here / "parts").mkdir()
    (here / "parts" / "__init__.py").write_text("")
    (here / "parts" / "one.py").write_text(schedule("flat"))
    install(here, "the_plugin", "", point="parts.one")
    (here / "not_installed.py").write_text(schedule("other", "other").replace("beta,", "-1.0,"))
    for name in ("the_plugin", "the-plugin", "parts", "parts.one"):
        check_plugin(name)
    with pytest.raises(AssertionError, match="'other': Noise schedule"):
        check_plugin("not_installed")
    install(here, "empty_plugin", "")
    install(here, "broken_plugin", "1 / 0")
    with pytest.raises(AssertionError, match="'empty_plugin' registers nothing"):
        check_plugin("empty_plugin")
    with pytest.raises(ConfigError, match="'broken_plugin' fails when it is imported: ZeroDivisionError"):
        check_plugin("broken_plugin")
    with pytest.raises(ConfigError, match="no plugin or module 'empty_plugn'. Did you mean 'empty_plugin'"):
        check_plugin("empty_plugn")


def test_a_package_that_is_not_installed_yet_is_named(dqlab: Run) -> None:
    """The commands as the README has them, one after the other: Python would import the folder as an empty package."""
    assert dqlab("new-plugin", "mylab").returncode == 0
    said = "no plugin or module 'mylab'. The folder of that name here is not installed: pip install -e mylab"
    refused(dqlab("check", "mylab"), said)


def test_dqlab_check_says_what_is_wrong_with_each_part(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(here, "bad_plugin", schedule("bad", "bad").replace("beta,", "2.0,") + schedule("flat"))
    assert main(["check", "bad_plugin"]) == 1
    bad, good = capsys.readouterr().out.splitlines()
    assert bad.startswith("noise_schedule 'bad': Noise schedule ")
    assert good == "noise_schedule 'flat': ok"
    assert main(["check", "no_such_plugin"]) == 2
