"""Strict gin: every mistake is one message with file, line and nearest name; what runs have stored is still read."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import gin
import pytest
from conftest import ROOT, SMALL
from made_overrides import faults

from dqlab.config import gin_files
from dqlab.config.fields import bound_at
from dqlab.config.gin_files import parse_bindings
from dqlab.config.gin_state import OtherConfiguration, operative_parameters
from dqlab.config.identity import EXPERIMENT_FIELDS, LATER, changed_results, describes_setting
from dqlab.envs import tasks
from dqlab.envs.tasks import D4RL
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_experiment
from dqlab.tools.collect.recipe import Collection
from dqlab.training import Training

GIN_FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "gin").rglob("*.gin"))
QUICK = ROOT / "gin" / "quickstart.gin"

# Diffusion-QL's table of hyper-parameters: lr, eta, max_q_backup, reward, epochs, grad norm, top_k
PAPER = {
    "halfcheetah-medium-v2": (3e-4, 1.0, False, "none", 2000, 9, 1),
    "hopper-medium-v2": (3e-4, 1.0, False, "none", 2000, 9, 2),
    "walker2d-medium-v2": (3e-4, 1.0, False, "none", 2000, 1, 1),
    "halfcheetah-medium-replay-v2": (3e-4, 1.0, False, "none", 2000, 2, 0),
    "hopper-medium-replay-v2": (3e-4, 1.0, False, "none", 2000, 4, 2),
    "walker2d-medium-replay-v2": (3e-4, 1.0, False, "none", 2000, 4, 1),
    "halfcheetah-medium-expert-v2": (3e-4, 1.0, False, "none", 2000, 7, 0),
    "hopper-medium-expert-v2": (3e-4, 1.0, False, "none", 2000, 5, 2),
    "walker2d-medium-expert-v2": (3e-4, 1.0, False, "none", 2000, 5, 1),
    "antmaze-umaze-v0": (3e-4, 0.5, False, "cql_antmaze", 1000, 2, 2),
    "antmaze-umaze-diverse-v0": (3e-4, 2.0, True, "cql_antmaze", 1000, 3, 2),
    "antmaze-medium-play-v0": (1e-3, 2.0, True, "cql_antmaze", 1000, 2, 1),
    "antmaze-medium-diverse-v0": (3e-4, 3.0, True, "cql_antmaze", 1000, 1, 1),
    "antmaze-large-play-v0": (3e-4, 4.5, True, "cql_antmaze", 1000, 10, 2),
    "antmaze-large-diverse-v0": (3e-4, 3.5, True, "cql_antmaze", 1000, 7, 1),
    "pen-human-v1": (3e-5, 0.15, False, "standardise", 1000, 7, 2),
    "pen-cloned-v1": (3e-5, 0.1, False, "standardise", 1000, 8, 2),
    "kitchen-complete-v0": (3e-4, 0.005, False, "none", 250, 9, 2),
    "kitchen-partial-v0": (3e-4, 0.005, False, "none", 1000, 10, 2),
    "kitchen-mixed-v0": (3e-4, 0.005, False, "none", 1000, 10, 0),
}


def write(folder: Path, text: str, name: str = "x.gin") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


MISTAKES = {
    "\nDiffusionQL.etaa = 1.0": r"x.gin:2: 'DiffusionQL' has no parameter 'etaa'. Did you mean 'eta'",
    "Experiment.seed = 1": r"'Experiment' has no parameter 'seed'. Did you mean 'seeds'",
    "DIFUSIONQL.eta = 1.0": r"x.gin:1: nothing is called 'DIFUSIONQL'.*'DiffusionQL'.*a plugin has it: --plugin MODULE",
    "\n\nDiffusionPolicy.schedule = @vq": r"x.gin:3: .*'@vq'.*Did you mean .*'vp'",
    "DiffusionQL.eta = (1.0": r"x.gin:\d: ",
    "DiffusionQL": r"x.gin:1: ",
    "Diffusi\u043enQL.eta = 1.0": r"x.gin:1: .*CYRILLIC SMALL LETTER O\. Did you mean 'DiffusionQL'",
    "import no_such_module_at_all": r"x.gin:1: cannot import 'no_such_module_at_all'",
    "include 'nowhere.gin'": r"x.gin:1: There is no gin file 'nowhere.gin'",
    "\n'''Training.steps = 10": r"x.gin:2: the quotes that open here are never closed",
    "A.b = " + "[" * 45_000 + "]" * 45_000: r"x.gin:1: brackets are nested too deeply",
    "DiffusionQL.eta\u00a0= 1.0": r"x.gin:1: .*Column 16 has the character NO-BREAK SPACE \(U\+00A0\)",
    "DiffusionQL.eta = 1.0\x00": r"x.gin:1: .*Column 22 has the character CONTROL CHARACTER \(U\+0000\)",
    f"include '{'x' * 5000}.gin'": r"x.gin:1: There is no gin file 'xxx",
    "Auto.kwargs = {}": r"x.gin:1: 'Auto' has no parameter 'kwargs'",
    "\nDiffusionPolicy.schedule = 'vq'": r"^.*x.gin:2: Unknown noise_schedule 'vq'.*'vp'.*a plugin has it: --plugin",
    "\nDiffusionQL.eta = -1": r"^.*x.gin:2: DiffusionQL.eta must be at least 0, not -1",
}
VALUES = {
    "DiffusionQL.eta='high'": r"^--set DiffusionQL.eta must be of type float",
    "Experiment.seeds=[[1]]": "Experiment.seeds must be a tuple of different integers",
    "Experiment.seeds=(1, 1)": "^--set Experiment.seeds must be a tuple of different integers",
    "Experiment.dtype='float16'": "dtype must be one of",
    "Experiment.algorithm=difusion_ql": "^--set: Unknown algorithm 'difusion_ql'. Did you mean 'diffusion_ql'",
    "DiffusionQL.lr_schedule='cosin'": "Unknown lr_schedule 'cosin'",
    "Training.early_stop='nevr'": "Unknown early_stop",
}


def check_files(*files: Path) -> None:
    gin_files.load_gin(files)
    check_experiment(Experiment())


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:40])
def test_mistakes_name_file_line_and_nearest(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=MISTAKES[text]):
        check_files(QUICK, path)


@pytest.mark.parametrize("binding", VALUES)
def test_wrong_values_are_found_before_any_data_is_read(binding: str) -> None:
    gin_files.load_gin([QUICK], [binding])
    with pytest.raises(ConfigError, match=VALUES[binding]):
        check_experiment(Experiment())


def test_a_second_configuration_leaves_the_first_alone() -> None:
    """Nor do messages name its places."""
    gin_files.load_gin([], ["Training.steps=7", "Collection.formats=('npz',)"])
    assert bound_at("formats", "npz") == "--set "
    other = OtherConfiguration()
    with other:
        assert (Training().steps, bound_at("Training.steps", 7)) == (2_000_000, "")
    assert (operative_parameters(), Training().steps) == ({}, 7)
    with other:
        gin_files.load_gin([], ["Training.steps=9"])
    assert (operative_parameters()["training.Training.steps"], bound_at("Training.steps", 7)) == (7, "--set ")
    with other:
        assert Training().steps == 9


def test_overrides_that_nobody_would_write(tmp_path: Path) -> None:
    """Of 20,000, none was more than a message: `DQLAB_FUZZ=20000` asks for so many, `DQLAB_FUZZ_SEED` for others."""
    found = faults(int(os.environ.get("DQLAB_FUZZ", "150")), int(os.environ.get("DQLAB_FUZZ_SEED", "1")), tmp_path)
    assert not found, f"{len(found)}: {[(text[:150], str(error)[:200]) for text, error in found[:20]]}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_as_windows_editors_write_them(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.gin"
    path.write_text("# \u03b7\nDiffusionQL.eta = 2.0\n", encoding=encoding, newline="\r\n")
    gin_files.load_gin([path])
    assert gin.query_parameter("DiffusionQL.eta") == 2.0
    assert gin_files.bindings_in_file(path) == {"DiffusionQL.eta": 2.0}


def test_a_file_at_home_here_or_among_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is here comes before those that ship; a folder of the name is no file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "DiffusionQL.eta = 2.0\n", "base.gin")
    write(tmp_path, "include '~/base.gin'\n")
    assert [path.name for path in gin_files.load_gin(["~/x.gin"]).files] == ["x.gin", "base.gin"]
    with pytest.raises(ConfigError, match="no gin file '~nobody-of-that-name/x.gin'"):
        gin_files.load_gin(["~nobody-of-that-name/x.gin"])
    (tmp_path / "quickstart").mkdir()
    for name in ("quickstart", "gin/quickstart", "steps"):
        assert gin_files.find_gin_file(name).suffix == ".gin"
    (tmp_path / "quickstart.gin").touch()
    assert gin_files.find_gin_file("quickstart") == Path("quickstart.gin")


def test_includes_are_relative_to_the_including_file_and_each_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "include 'b/two.gin'\nExperiment.dtype = 'float64'", "one.gin")
    write(tmp_path, "include '../three.gin'\nExperiment.task = 'hopper-medium-v2'", "b/two.gin")
    write(tmp_path, "include 'one.gin'\nExperiment.seeds = (4, 5)\nExperiment.task = 'walker2d-medium-v2'", "three.gin")
    loaded = gin_files.load_gin([tmp_path / "one.gin"])
    experiment = Experiment()
    assert (experiment.task, experiment.seeds, experiment.dtype) == ("hopper-medium-v2", (4, 5), "float64")
    assert len(loaded.files) == 3


@pytest.mark.parametrize("path", GIN_FILES, ids=str)
def test_every_gin_file_parses_and_builds(path: Path) -> None:
    if path.name.startswith("collect_") or path.parts[1] == "collect":
        gin_files.load_gin([ROOT / path])
        assert Collection().resolved_task()[0].action_dim > 0
    elif path.parts[1] != "base":
        check_files(ROOT / path)
    else:
        with pytest.raises(ConfigError, match="Experiment.task"):  # a base file lacks the task, and nothing else
            check_files(ROOT / path)
        gin_files.load_gin([ROOT / path], ["Experiment.task=hopper-medium-v2"])
        check_experiment(Experiment())


@pytest.mark.parametrize("task", PAPER)
def test_the_papers_files_say_what_the_paper_says(task: str) -> None:
    gin_files.load_gin([ROOT / "gin" / "paper" / f"{task}.gin"])
    experiment = Experiment()
    algorithm, plan = experiment.resolved_algorithm, experiment.plan
    lr, eta, max_q_backup, reward, epochs, grad_norm, top_k = PAPER[task]
    assert experiment.task == task
    assert (algorithm.grad_norm, plan.top_k) == (grad_norm, top_k)
    assert (algorithm.eta, algorithm.learning_rate, algorithm.critic_learning_rate) == (eta, lr, 3e-4)
    assert (algorithm.discount, algorithm.tau, algorithm.max_q_backup) == (0.99, 0.005, max_q_backup)
    episodes = 10 if task.endswith("-v2") else 100
    assert (plan.steps, plan.batch_size, plan.eval_every, plan.eval_episodes) == (epochs * 1000, 256, 50_000, episodes)
    assert gin.query_parameter("load_dataset.sources") == ("d4rl_cache", "d4rl_download")
    assert gin.query_parameter("load_dataset.reward_transform") == reward
    assert gin.query_parameter("BehaviourCloning.learning_rate") == lr


def test_every_task_of_the_paper_has_a_file_and_an_environment() -> None:
    assert {path.stem for path in (ROOT / "gin" / "paper").glob("*.gin")} == set(PAPER)
    assert set(PAPER) < set(D4RL["tasks"]) < set(tasks.names())


def test_bc_differs_in_what_it_must_only() -> None:
    both = (gin_files.bindings_in_file(f"gin/{name}_walker2d.gin") for name in ("diffql", "bc"))
    assert changed_results(*both) == ["Experiment.algorithm: 'diffusion_ql' before, 'bc' now"]


def test_a_text_that_is_older_than_a_parameter_ran_with_its_default() -> None:
    said = ["Experiment.env_backend: 'gymnasium' before, 'd4rl' now"]
    for value, changed in (("gymnasium", []), ("d4rl", said)):
        assert changed_results({}, {"Experiment.env_backend": value}) == changed


def test_runs_of_diffusion_ql_that_are_older_than_its_rivals_options_are_continued_and_rivals_are_not() -> None:
    """What a run did not name it ran as it was then: Diffusion-QL as today, FQL by another update."""
    for algorithm, changed in (("diffusion_ql", []), ("fql", ["FQL.joint_update: False before, True now"])):
        loaded = gin_files.load_gin([f"gin/{algorithm}_walker2d.gin"], SMALL)
        check_experiment(Experiment())
        now = gin_files.operative_text(loaded)
        later = re.compile(r"^[\w.]*\.(joint_update|norm_after|norm_eps|time_endpoint) = .*\n", re.MULTILINE)
        found = changed_results(*map(parse_bindings, (later.sub("", now), now)))
        assert [line for line in found if "MeanEnsemble" not in line] == changed


def test_every_field_of_an_experiment_has_its_place_in_the_identity_of_a_run() -> None:
    assert sorted(sum(EXPERIMENT_FIELDS.values(), ())) == sorted(field.name for field in fields(Experiment))


def test_parameters_of_earlier_versions_are_read_over(tmp_path: Path) -> None:
    """A run that an earlier version has stored binds them; the command line may not."""
    stored = tmp_path / "config.gin"
    stored.write_text("load_dataset.memory_map = 'auto'\nCollection.licence = 'MIT'\nDiffusionQL.eta = 0.5\n")
    gin_files.load_gin([stored])
    with pytest.raises(ConfigError, match="memory_map"):
        gin_files.load_gin([stored], ["load_dataset.memory_map='auto'"])


def test_what_came_later_divides_no_groups_where_it_is_as_before() -> None:
    """Nor in MLflow, which has values as texts."""
    assert not any(describes_setting(name, each) for name, value in LATER.items() for each in (value, str(value)))
    assert all(describes_setting("Experiment.action_chunk", each) for each in (4, "4"))


def test_a_file_that_is_named_later_wins_over_one_that_includes_it(tmp_path: Path) -> None:
    (tmp_path / "over.gin").write_text("include 'gin/quickstart.gin'\nTraining.steps = 5\nTraining.top_k = 3\n")
    for files, steps in (([tmp_path / "over.gin", QUICK], 8000), ([QUICK, tmp_path / "over.gin"], 5)):
        loaded = gin_files.load_gin(files)
        assert (Experiment().plan.steps, Experiment().plan.top_k) == (steps, 3)
        assert len({file.resolve() for file in loaded.files}) == len(loaded.files)


def test_a_dataset_is_no_task() -> None:
    gin_files.load_gin([QUICK], ["Experiment.task='walker2d-medium-expert-mini'"])
    with pytest.raises(
        ConfigError, match=r"is a dataset, not a task: .*sources=\('embedded:walker2d-medium-expert-mini'"
    ):
        check_experiment(Experiment())
