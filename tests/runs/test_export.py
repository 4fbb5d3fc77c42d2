"""Exported policies: the actions of `load_policy` at 1e-5, from every algorithm; a folder that others can use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Run, refused
from hub_server import Hub, running
from made_environments import write_odd
from made_packs import small_run

import dqlab as library
from dqlab.algorithms import algorithms
from dqlab.errors import RunError
from dqlab.runs.export import export_policy, run_onnx, without_folders
from dqlab.runs.load_policy import pretrained_policies
from dqlab.runs.policy import LoadedPolicy
from dqlab.runs.policy_module import LAWS, PolicyModule


def given_noise(policy: LoadedPolicy, states: torch.Tensor) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Noise as an exported model takes it, and the policy's own actions for it."""
    with policy.ready():
        module = PolicyModule(policy)
    flat = policy.seed(1).draw(len(states))
    shapes = module.shapes(len(states))
    noise = {name: value.reshape(shapes[name]) for name, value in flat.items()}  # type: ignore[arg-type]
    return noise, policy(states.numpy(), flat)


ACTING = ("policy", "critic", "selection", "acting_actor")


def acts_by(name: str) -> tuple[object, ...]:
    """All that decides how an algorithm acts."""
    algorithm = algorithms.get(name)()
    return type(algorithm).act, *(getattr(algorithm, part, "") for part in ACTING)


@pytest.mark.parametrize("algorithm", {acts_by(name): name for name in sorted(algorithms.names())}.values())
def test_every_algorithm_as_a_program_of_pytorch(tmp_path: Path, algorithm: str) -> None:
    """Of those that act alike one."""
    run = small_run(tmp_path, f"Experiment.algorithm = '{algorithm}'")
    export_policy(run.path, tmp_path / "out", "torch", "last")
    policy = library.load_policy(tmp_path / "out")
    states = torch.randn(7, 17)
    noise, expected = given_noise(policy, states)
    actions = torch.export.load(tmp_path / "out" / "policy_given_noise.pt2").module()(states, noise)
    np.testing.assert_allclose(actions.numpy(), expected, atol=1e-5)


def paths_in(folder: Path, *paths: Path) -> list[str]:
    """Files that name one of the paths."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 8
    return [str(path) for path in files if any(str(each).encode() in path.read_bytes() for each in paths)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """Standardised states, actions between -2 and 2."""
    folder = tmp_path_factory.mktemp("odd")
    own = {"load_dataset.standardise_states": True}
    return library.train(write_odd(folder), seeds=[0, 1], set=own, out=folder / "run", quiet=True)


def test_onnx_and_what_lies_beside_it(odd: library.Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    files = export_policy(odd.path, out, checkpoint="last", seed=1)
    policy = library.load_policy(out)
    states = torch.randn(7, 3)
    noise, expected = given_noise(policy, states)
    actions = run_onnx(str(out / "policy_given_noise.onnx"), states, noise)
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert np.abs(actions[:, 0]).max() > 1
    page = (ROOT / "docs" / "howto" / "export.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("walker/", f"{out}/")
    for args in ((str(out / "example.py"),), ("-c", code)):
        done = subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("[[")
    card = (out / "README.md").read_text()
    assert "**Its data and its scores: not D4RL.**" in card
    assert all(rule in card for rule in ("last", "offline", "best-online", "mean-last-10", odd.facts["data"]["digest"]))
    assert json.loads((out / "policy.json").read_text())["noise"]["chain_start"] == [3, "B", 2]
    assert out / "policy.onnx" in files
    assert paths_in(out, odd.path.parent, ROOT) == []
    assert library.Run(out).facts["data"]["path"] == "odd.npz"
    ones = np.ones(3)
    assert np.array_equal(policy.seed(0)(ones), odd.policy("last", seed=1).seed(0)(ones))
    assert library.evaluate(policy)["return"].tolist() == library.evaluate(odd, seed=1)["return"].tolist()


def test_the_command_the_hub_and_what_is_refused(
    odd: library.Run, tmp_path: Path, dqlab: Run, in_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub takes a policy and gives it back; no file names a folder of this machine."""
    hub = Hub(tmp_path / "served")
    run, more = str(odd.path / "seed-0"), ("--format", "torch", "--plugin", "odd")
    env = {"PYTHONPATH": str(odd.path.parent), "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path / "hub")}
    with running(hub) as address:
        env |= {"HF_ENDPOINT": address}
        done = dqlab("export", run, "--out", "walker", *more, "--push", "hf:me/odd", env=env)
        assert (done.returncode, "walker/policy.pt2" in done.stdout) == (0, True), done.stderr
        sent = {entry["path"] for entry in hub.tree("odd")}
        assert {"README.md", "policy.pt2", "policy.json", "run.json", "config.gin"} <= sent
        code = "import dqlab, odd; print(dqlab.load_policy('hf:me/odd').seed(0)([1.0, 1.0, 1.0]).tolist())"
        (tmp_path / "page.py").write_text(code)
        command, env = [sys.executable, "-m", "page"], {**os.environ, **env}
        told = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    expected = library.load_policy(odd.path / "seed-0").seed(0)([1.0, 1.0, 1.0])  # type: ignore[arg-type]
    assert json.loads(told.stdout) == pytest.approx(expected.tolist(), abs=1e-6), told.stderr
    assert paths_in(tmp_path / "walker", odd.path.parent, ROOT) == []
    assert paths_in(odd.path, odd.path.parent), "what is exported does name them"
    drawn = torch.export.load(tmp_path / "walker" / "policy.pt2").module()(torch.randn(7, 3))
    assert (drawn.shape, bool(drawn.abs().max() <= 2)) == ((7, 2), True)

    monkeypatch.syspath_prepend(odd.path.parent)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").touch()
    for args, says in (
        ((run, "--out", "else", *more), "holds something else than an exported policy"),
        ((str(odd.path), "--out", "new", *more), "has 2 replicas"),
        ((run, "--out", "new", "--push", "me/walker", *more), "--push wants hf:USER/REPO"),
        ((run, "--out", "again", "--push", "hf:me/odd", *more), "hf:me/odd was not uploaded"),
    ):
        refused(in_process("export", *args), says)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunError, match=r"checkpoint\.safetensors is no checkpoint: name a run's folder, or a file in"):
        library.load_policy(odd.path / "checkpoint.safetensors")
    assert (tmp_path / "again" / "policy.pt2").exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (("/home/me/a b.npz", "~/b", "file:npz:/c/d.npz", "file:///e"), ("a b.npz", "b", "file:npz:d.npz", "file:e")),
        ({"x": ["gin/quickstart.gin", "https://host/a", "a/b", "odd:Odd-v0"]},) * 2,
    ],
)
def test_what_counts_as_a_path_of_this_machine(value: object, expected: object) -> None:
    assert without_folders(value) == expected


@pytest.mark.parametrize(("law", "mean", "std"), [("normal", 0, 1), ("uniform", 0.5, 0.289), ("gumbel", 0.577, 1.283)])
def test_laws_that_programs_draw_from(law: str, mean: float, std: float) -> None:
    drawn = LAWS[law]([100_000], torch.float32, 0.0)
    assert (float(drawn.mean()), float(drawn.std())) == pytest.approx((mean, std), abs=0.02)
    assert set(LAWS["integers"]([1000], torch.float32, 3).tolist()) == {0, 1, 2}


POLICIES = pretrained_policies()


def test_policies_that_ship_are_small() -> None:
    assert {"walker2d-mini", "walker2d-like"} <= POLICIES.keys()
    files = [path for folder in POLICIES.values() for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert not [path for path in files if str(ROOT).encode() in path.read_bytes()]


@pytest.mark.parametrize("name", POLICIES)
def test_it_scores_about_what_its_card_says(name: str) -> None:
    """In two episodes; the card's are a hundred."""
    card = (POLICIES[name] / "README.md").read_text()
    told, spread = map(float, re.findall(r"it scores ([\d.]+) \+- ([\d.]+) in 100 new episodes", card)[0])
    policy = library.load_policy(f"pretrained:{name}")
    assert library.evaluate(policy, episodes=2).score.mean() > told - 1.5 * spread
    assert f"SHA-256 `{policy.source.facts['data']['digest']}`" in card
    with pytest.raises(RunError, match=r"No pretrained policy is called 'walker'\. .*Known: .*walker2d-mini"):
        library.load_policy("pretrained:walker")
