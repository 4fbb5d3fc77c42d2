"""A Ray cluster of two nodes, of which one is killed: nothing is lost, nothing done twice; and real packs."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_packs import CELLS, check_same, pack_text, summary
from ray_cluster import Cluster, lives, until

from dqlab.ablation.engines.base import FINISHED, Job
from dqlab.ablation.engines.local import LocalEngine
from dqlab.ablation.engines.ray import RayEngine, modules_of
from dqlab.errors import ConfigError
from dqlab.tools.conformance.training import made_job
from dqlab.tracking.run_folder import claim_folder

pytest.importorskip("ray", reason="ray is not installed")

TWO = {name: CELLS[name] for name in ("cell-a", "cell-b")}
PLUGIN = '''"""A schedule."""
import torch
from dqlab.diffusion import noise_schedules

@noise_schedules.register("travelling", source="x")
def travelling(n_timesteps: int) -> torch.Tensor:
    """Constant."""
    return torch.full((n_timesteps,), 0.3, dtype=torch.float64)
'''


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with closing(Cluster()) as cluster:
        cluster.join()
        yield cluster


def test_a_lost_node_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Jobs stop half-way until one of them has got as far on the second node, however late its processes start."""
    half, lost = 30, tmp_path / "lost"
    plan = {"steps": 60, "seconds": 0.01, "gate": (half + 1, str(lost))}
    plain = [made_job(tmp_path / name, **plan) for name in ("a", "b", "c")]
    huge = replace(made_job(tmp_path / "huge"), threads=64, memory=10**15)  # more than any node has
    gpu = replace(made_job(tmp_path / "gpu"), gpu_memory=1)
    told: dict[str, list[Any]] = defaultdict(list)
    moved: list[str] = []

    def tell(job: Job, event: Any) -> None:
        told[job.id].append(event)
        ripe = not moved and event["event"] == "saved" and event["step"] == half
        on_second = ripe and cluster.nodes[0].has(told[job.id][0]["pid"])
        if on_second:
            moved.append(job.id)
            cluster.nodes[0].kill()
            until(lambda: not lives(told[job.id][0]["pid"]), 120)  # it has saved
            lost.touch()

    ends = list(RayEngine(cluster.address).run([*plain, huge, gpu], tell))
    assert sorted(end.job.id for end in ends) == ["a", "b", "c", "gpu", "huge"]
    assert {end.code for end in ends} == {FINISHED}, ends
    (name,) = moved
    starts = {job.id: [e["step"] for e in told[job.id] if e["event"] == "started"] for job in (*plain, huge, gpu)}
    assert {other: steps for other, steps in starts.items() if other != name} == {
        other: [0] for other in starts if other != name
    }
    assert starts[name] == [0, half]
    for job in plain:
        lines = (job.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))
    seen = {job.id: told[job.id][0]["environment"] for job in (*plain, huge, gpu)}
    assert {known["CUDA_VISIBLE_DEVICES"] for other, known in seen.items() if other != "gpu"} == {""}
    assert seen["gpu"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert seen["huge"]["OMP_NUM_THREADS"] == "64"


def make_pack(folder: Path, cache: Path, sources: str) -> Job:
    folder.mkdir(parents=True)
    bindings = ("DiffusionPolicy.schedule = 'travelling'", f"load_dataset.sources = ('{sources}',)")
    (folder / "pack.gin").write_text("import travelling_plugin\n" + pack_text(TWO, *bindings, steps=20))
    return Job(folder.name, folder, (cache,))


def test_real_packs_give_what_they_give_on_this_machine(
    cluster: Cluster, tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plugin that only the driver has; the dataset is found in D4RL's cache, and by a path."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "travelling_plugin.py").write_text(PLUGIN)
    cache = tmp_path / "cache" / "walker2d_medium_expert-v2.hdf5"
    cache.parent.mkdir()
    d4rl_file(rows=200).rename(cache)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(cache.parent))  # which the nodes were started without
    sources = {"cached": "d4rl_cache", "named": f"file:{cache}"}
    there = [make_pack(tmp_path / "there" / name, cache, source) for name, source in sources.items()]
    here = [make_pack(tmp_path / "here" / name, cache, source) for name, source in sources.items()]
    far = list(RayEngine(cluster.address).run(there, lambda job, event: None))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"), prepend=":")
    near = list(LocalEngine(workers=1).run(here, lambda job, event: None))
    assert [(end.code, end.reason) for end in (*far, *near)] == [(FINISHED, "")] * 4
    assert sorted(path.name for path in (tmp_path / "there").glob(".storage-check*")) == []
    for ours, theirs in zip(here, there, strict=True):
        facts = [json.loads((job.folder / "run.json").read_text())["data"] for job in (ours, theirs)]
        assert facts[0] == facts[1]
        for name in TWO:
            scores = [summary(job.folder, name)["selection"]["last"]["score_mean"] for job in (ours, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
            check_same(ours.folder, name, theirs.folder)


def refusal(cluster: Cluster, job: Job) -> str:
    with pytest.raises(ConfigError) as error:
        list(RayEngine(cluster.address).run([job], lambda job, event: pytest.fail("a pack was started")))
    return str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides a folder from a node")
def test_a_node_that_does_not_see_the_storage_is_named_before_the_first_pack(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    data = tmp_path / "local" / "data.hdf5"
    data.write_text("rows")
    shared = made_job(tmp_path / "shared" / "a", steps=1)
    with closing(Cluster()) as cluster:
        cluster.join(hides=tmp_path / "local")
        said = refusal(cluster, made_job(tmp_path / "local" / "b"))
        assert said.startswith(f"The node 127.0.0.2 of the Ray cluster does not see {tmp_path / 'local'}. ")
        assert "--storage DIR" in said
        said = refusal(cluster, replace(shared, inputs=(data,)))
        assert said.startswith(f"The node 127.0.0.2 of the Ray cluster does not see the dataset {data}. ")
        (end,) = RayEngine(cluster.address).run([shared], lambda job, event: None)
        assert end.code == FINISHED


def test_what_a_node_lacks_of_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dqlab.ablation.engines.ray_tasks import fingerprint, storage_fault

    token, data = tmp_path / "storage" / "token", tmp_path / "data.hdf5"
    data.write_text("rows")
    assert storage_fault(token, {}).startswith(f"does not see {token.parent}. All nodes must see what packs write")
    token.mkdir(parents=True)
    assert "but not its locks" in storage_fault(token, {})
    with claim_folder(token):
        assert storage_fault(token, {data: fingerprint(data)}) == ""
        assert f"has another dataset in {data}" in storage_fault(token, {data: "of another"})
        monkeypatch.setattr("uuid.UUID.hex", "nowhere/x")
        assert storage_fault(token, {}).startswith(f"cannot write to {token.parent} (No such file or directory).")


def test_code_of_plugins_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package" / "deep").mkdir(parents=True)
    (tmp_path / "a_package" / "__init__.py").write_text("")
    (tmp_path / "a_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import a_package.deep\nimport a_module\nfrom dqlab import errors\nimport math\nimport not_there\n"
    (tmp_path / "pack.gin").write_text(text + "a.text = 'import nothing'\n")
    found = [Path(path).name for path in modules_of([Job("a", tmp_path)])]
    assert found == ["dqlab", "a_module.py", "a_package"]


def test_clusters_that_are_not_there(tmp_path: Path) -> None:
    job = made_job(tmp_path / "a")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        closed = socket.create_server(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
        closed.close()
        for address in (f"127.0.0.1:{nobody}", f"127.0.0.1:{deaf.getsockname()[1]}", "nonsense"):
            started = time.monotonic()
            with pytest.raises(ConfigError, match="ray start --address"):
                list(RayEngine(address).run([job], print))
            assert time.monotonic() - started < 40, address
    with pytest.raises(ConfigError, match="auto, or HOST:PORT"):
        RayEngine("ray://head:10001")
