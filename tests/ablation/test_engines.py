"""Every engine, held to what engines promise, with jobs that are processes and really die; a node that is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from made_packs import CELLS, check_same, pack_text
from ray_cluster import Cluster, lives, until

from dqlab.ablation.engines import base
from dqlab.ablation.engines.base import FAILED, FINISHED, STOPPED, Engine, Job, LocalEngine
from dqlab.ablation.engines.ray import RayEngine
from dqlab.ablation.engines.ray_tasks import fingerprint, storage_fault
from dqlab.ablation.engines.slurm import SlurmEngine
from dqlab.errors import ConfigError
from dqlab.tools.conformance.training import made_job
from dqlab.tracking.run_folder import claim_folder

Events = dict[str, list[Any]]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever drives jobs elsewhere looks for news five times as often."""
    monkeypatch.setattr(base, "POLL_REMOTE", 0.1)


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with closing(Cluster(tmp_path_factory.mktemp("hidden"))) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    """Two nodes, which are never idle: they end with these tests."""
    if not any(node.is_alive for node in whole_cluster.nodes):
        whole_cluster.join()
    return whole_cluster


@pytest.fixture(params=["local", "slurm", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "slurm":
        pytest.importorskip("submitit")
        return SlurmEngine(cluster="local")
    return LocalEngine(2) if request.param == "local" else RayEngine(request.getfixturevalue("cluster").address)


def run(engine: Engine, jobs: list[Job], then: Callable[..., None] | None = None) -> tuple[dict[str, Any], Events]:
    """Run jobs; how each ended, and what it told, by id; `then` is given each event, with all that."""
    ends: dict[str, Any] = {}
    told: Events = defaultdict(list)

    def tell(job: Job, event: Any) -> None:
        told[job.id].append(dict(event))
        if then is not None:
            then(job, event, told, ends)

    for end in engine.run(jobs, tell):
        assert end.job.id not in ends, "each job ends once"
        ends[end.job.id] = end
    assert sorted(ends) == sorted(job.id for job in jobs)
    return ends, told


def names(events: list[Any]) -> list[str]:
    return [f"{event['event']} {event.get('step', '')}".strip() for event in events]


def step_of(job: Job) -> int:
    path = job.folder / "checkpoint.safetensors"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def records(job: Job) -> list[int]:
    return [json.loads(line)["step"] for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_job_that_fails_or_dies_ends_no_other(engine: Engine, tmp_path: Path) -> None:
    """What a sound and a failing job tell is looked at by the conformance suite."""
    jobs = [
        made_job(tmp_path / "failing", fail_at=2),
        made_job(tmp_path / "dying-once", steps=3, die_at=3),
        made_job(tmp_path / "dying", die_at=2, deaths=9),
    ]
    ends, told = run(engine, jobs)
    assert {name: end.code for name, end in ends.items()} == {"failing": FAILED, "dying-once": FINISHED, "dying": -9}
    assert ends["failing"].reason == "it was told to"
    assert ends["dying"].reason.startswith("killed by SIGKILL (out of memory?)")
    assert names(told["dying-once"]) == ["started 0", "saved 1", "saved 2", "started 2", "saved 3", "finished"]
    assert names(told["dying"]) == ["started 0", "saved 1", "started 1", "started 1"]  # two retries
    assert [records(job) for job in jobs] == [[1], [1, 2, 3], [1]]
    assert "counting to 3" in jobs[0].log.read_text(), "what is no event goes to the log"


def test_stopped_jobs_continue_where_they_were_and_a_second_stop_kills(engine: Engine, tmp_path: Path) -> None:
    """One of them is deaf: it goes on when all others have saved and ended, and is killed."""
    deaf = replace(made_job(tmp_path / "deaf", steps=9999, seconds=0.05, deaf=True), seconds=1.0)  # the first one
    jobs = [deaf, *(made_job(tmp_path / name, steps=9999, seconds=0.05) for name in ("a", "b", "c"))]
    stops: list[str] = []

    def stop(job: Job, event: Any, told: Events, ended: Any) -> None:
        first = not stops and told["deaf"] and job is not deaf and event.get("step", 0) >= 3
        if first or (len(stops) == 1 and len(ended) == 3):
            stops.append(job.id)
            engine.stop()

    ends, told = run(engine, jobs, stop)
    assert {end.code for end in ends.values()} == {STOPPED}
    assert len(stops) == 2
    until(lambda: not lives(told["deaf"][0]["pid"]), 120)
    begun = [job for job in jobs if told[job.id] and job is not deaf]
    for job in begun:
        assert step_of(job) == max(event.get("step", 0) for event in told[job.id])
        (job.folder / "pack.gin").write_text(f"steps = {step_of(job) + 2}")
    ends, again = run(engine, begun)
    assert {end.code for end in ends.values()} == {FINISHED}
    assert [again[job.id][0]["step"] for job in begun] == [told[job.id][-1]["step"] for job in begun]


def test_no_more_at_a_time_than_asked_the_longest_first(tmp_path: Path) -> None:
    jobs = [replace(made_job(tmp_path / str(seconds), steps=1), seconds=seconds) for seconds in (1, 3, 2)]
    order: list[str] = []
    run(LocalEngine(workers=1), jobs, lambda job, event, *_: order.append(f"{job.id} {event['event']}"))
    assert order == [f"{name} {event}" for name in (3, 2, 1) for event in ("started", "saved", "finished")]


@pytest.mark.parametrize(("threads", "memory", "room"), [(2, 0, 2), (1, 300, 3), (1, 5000, 1)])
def test_as_many_as_cores_and_memory_have_room_for(
    threads: int, memory: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "cores", lambda: 4)
    monkeypatch.setattr("dqlab.training.probe.free_bytes", lambda device: 1001)
    plain = [made_job(tmp_path / name, steps=1) for name in "abcde"]
    changes: list[int] = []

    def tell(job: Job, event: Any, told: Events, ends: Any) -> None:
        changes.append({"started": 1, "finished": -1}.get(event["event"], 0))
        until(lambda: len(told) >= room, 60)  # they wait for each other, and a while for one too many
        with suppress(AssertionError):
            until(lambda: len(told) > room, 3)

    run(LocalEngine(), [replace(job, threads=threads, memory=memory) for job in plain], tell)
    assert max(accumulate(changes)) == room


@pytest.mark.parametrize(("workers", "seen"), [(0, {("3", None), ("5", None)}), (3, {("3", "0.5"), ("5", None)})])
def test_packs_have_a_gpu_of_their_own_or_a_share_of_one(
    workers: int, seen: set[tuple[str, str | None]], tmp_path: Path
) -> None:
    """And their threads; one for a CPU sees no GPU."""
    gpu = [replace(made_job(tmp_path / f"{i}", seconds=0.2), gpu_memory=1, threads=3) for i in range(4)]
    running: list[str] = []

    def tell(job: Job, event: Any, told: Events, ends: Any) -> None:
        if event["event"] in ("started", "finished") and job.id != "cpu":
            device = told[job.id][0]["environment"]["CUDA_VISIBLE_DEVICES"]
            (running.append if event["event"] == "started" else running.remove)(device)
            assert (device, None) not in seen or running.count(device) < 2, "two packs on one GPU"

    _, told = run(LocalEngine(workers=workers, devices=("3", "5")), [*gpu, made_job(tmp_path / "cpu")], tell)
    found = {name: events[0]["environment"] for name, events in told.items()}
    assert (found["cpu"]["CUDA_VISIBLE_DEVICES"], found["cpu"]["OMP_NUM_THREADS"]) == ("", "1")
    assert {(found[job.id]["CUDA_VISIBLE_DEVICES"], found[job.id]["DQLAB_GPU_SHARE"]) for job in gpu} == seen
    assert {found[job.id]["OMP_NUM_THREADS"] for job in gpu} == {"3"}


def test_jobs_that_want_a_gpu_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="want a GPU"):
        list(LocalEngine().run([Job("a", tmp_path, gpu_memory=1)], print))


def test_an_error_of_whoever_listens_leaves_no_process(tmp_path: Path) -> None:
    pids = []

    def tell(job: Job, event: Any) -> None:
        pids.extend([event["pid"]] if "pid" in event else [])
        raise KeyError(job.id)

    with pytest.raises(KeyError):
        list(LocalEngine(workers=1).run([made_job(tmp_path / "a", seconds=9.0, deaf=True)], tell))
    assert pids
    assert not lives(pids[0])


DRIVER = """
import sys
from pathlib import Path
from dqlab.ablation.engines.ray import Job, RayEngine
job = Job("a", Path(sys.argv[2]), worker="dqlab.tools.conformance.counting_job")
list(RayEngine(sys.argv[1]).run([job], lambda job, event: "pid" in event and print(event["pid"], flush=True)))
"""


def test_packs_of_a_killed_driver_save_and_end_on_ray(cluster: Cluster, tmp_path: Path) -> None:
    """Another engine goes on from there. On this machine: test_ablate.py."""
    job = made_job(tmp_path / "a", steps=9999, seconds=0.05)
    command = [sys.executable, "-c", DRIVER, cluster.address, str(job.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        until(lambda: step_of(job))
        driver.kill()
    until(lambda: not lives(pid))
    saved = step_of(job)
    assert records(job)[:saved] == list(range(1, saved + 1))
    assert len(records(job)) <= saved + 1, "Ray kills children: between record and checkpoint"
    (job.folder / "pack.gin").write_text(f"steps = {saved + 1}")
    ends, told = run(LocalEngine(), [job])
    assert (ends["a"].code, names(told["a"])) == (FINISHED, [f"started {saved}", f"saved {saved + 1}", "finished"])


def test_preempted_slurm_jobs_are_requeued_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    job, submitted = made_job(tmp_path / "a", steps=40, seconds=0.05), []
    submit = SlurmEngine.submit

    def keep(engine: SlurmEngine, job: Job, *notes: Any) -> Any:
        submitted.append(submit(engine, job, *notes))
        return submitted[-1]

    monkeypatch.setattr(SlurmEngine, "submit", keep)

    def interrupt(job: Job, event: Any, *_: Any) -> None:
        if event.get("step") == 3 and event["event"] == "saved":
            tasks = Path(f"/proc/{submitted[0].job_id}/task/{submitted[0].job_id}/children").read_text().split()
            os.kill(int(tasks[0]), 12)  # SIGUSR2, as SLURM sends it

    ends, told = run(SlurmEngine(cluster="local"), [job], interrupt)
    assert ends["a"].code == FINISHED
    _, second = [event["step"] for event in told["a"] if event["event"] == "started"]
    assert second >= 3
    assert records(job) == list(range(1, 41))


@pytest.mark.parametrize("module", ["ray", "submitit"])
def test_what_is_not_installed_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    engine = {"ray": RayEngine, "submitit": SlurmEngine}[module]()
    with pytest.raises(ConfigError, match=r"pip install .*\[(ray|slurm)\]'"):
        list(engine.run([made_job(tmp_path / "a")], print))


TWO = {name: CELLS[name] for name in ("cell-a", "cell-b")}
PLUGIN = """
import torch
from dqlab.diffusion import noise_schedules

@noise_schedules.register("travelling", source="x")
def travelling(n_timesteps: int) -> torch.Tensor:
    return torch.full((n_timesteps,), 0.3, dtype=torch.float64)
"""


def make_pack(folder: Path, cache: Path, sources: str) -> Job:
    folder.mkdir(parents=True)
    bindings = ("DiffusionPolicy.schedule = 'travelling'", f"load_dataset.sources = ('{sources}',)")
    imports = "import a_package.deep\nimport travelling_plugin\nimport math\n"
    (folder / "pack.gin").write_text(imports + pack_text(TWO, *bindings, steps=20))
    return Job(folder.name, folder, (cache,))


def test_real_packs_give_what_they_give_on_this_machine(
    cluster: Cluster, tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a module and a package that only the driver has; the dataset is found in D4RL's cache, and by a path."""
    plugins = tmp_path / "plugins"
    (plugins / "a_package" / "deep").mkdir(parents=True)
    (plugins / "a_package" / "__init__.py").touch()
    (plugins / "travelling_plugin.py").write_text(PLUGIN)
    cache = tmp_path / "cache" / "walker2d_medium_expert-v2.hdf5"
    cache.parent.mkdir()
    d4rl_file(rows=200).rename(cache)
    monkeypatch.syspath_prepend(str(plugins))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(cache.parent))  # which the nodes were started without
    sources = {"cached": "d4rl_cache", "named": f"file:{cache}"}
    there = [make_pack(tmp_path / "there" / name, cache, source) for name, source in sources.items()]
    here = make_pack(tmp_path / "here" / "cached", cache, sources["cached"])
    far = list(RayEngine(cluster.address).run(there, lambda job, event: None))
    monkeypatch.setenv("PYTHONPATH", str(plugins), prepend=":")
    near = list(LocalEngine(workers=1).run([here], lambda job, event: None))
    assert [(end.code, end.reason) for end in (*far, *near)] == [(FINISHED, "")] * 3
    assert not list((tmp_path / "there").glob(".storage-check*"))
    facts = [json.loads((job.folder / "run.json").read_text())["data"] for job in (here, there[0])]
    assert facts[0] == facts[1]
    for theirs in there:
        for name in TWO:
            check_same(here.folder, name, theirs.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides a folder from a node")
def test_a_node_that_does_not_see_the_storage_is_named_before_the_first_pack(cluster: Cluster, tmp_path: Path) -> None:
    data = cluster.hidden / "data.hdf5"
    data.write_text("rows")
    unseen = {f"{cluster.hidden}. ": made_job(cluster.hidden / "b")}
    unseen[f"the dataset {data}. "] = replace(made_job(tmp_path / "shared" / "a", steps=1), inputs=(data,))
    for words, job in unseen.items():
        with pytest.raises(ConfigError) as error:
            list(RayEngine(cluster.address).run([job], lambda job, event: pytest.fail("a pack was started")))
        assert str(error.value).startswith(f"The node {cluster.nodes[-1].ip} of the Ray cluster does not see {words}")
        assert ("--storage DIR" in str(error.value)) == ("dataset" not in words)


def test_what_else_a_node_lacks_of_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, data = tmp_path / "storage" / "token", tmp_path / "data.hdf5"
    data.write_text("rows")
    token.mkdir(parents=True)
    assert "but not its locks" in storage_fault(token, {})
    with claim_folder(token):
        assert storage_fault(token, {data: fingerprint(data)}) == ""
        assert f"has another dataset in {data}" in storage_fault(token, {data: "of another"})
        monkeypatch.setattr("uuid.UUID.hex", "nowhere/x")
        assert storage_fault(token, {}).startswith(f"cannot write to {token.parent} (No such file or directory).")


def test_nodes_follow_packs_without_torch() -> None:
    """Every pack has such a process beside its own."""
    code = "import sys, dqlab.ablation.engines.ray_tasks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_clusters_that_are_not_there(tmp_path: Path) -> None:
    job = made_job(tmp_path / "a")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        for address in (f"127.0.0.1:{nobody}", f"127.0.0.1:{deaf.getsockname()[1]}", "nonsense"):
            started = time.monotonic()
            with pytest.raises(ConfigError, match="ray start --address"):
                list(RayEngine(address).run([job], print))
            assert time.monotonic() - started < 40, address
    with pytest.raises(ConfigError, match="auto, or HOST:PORT"):
        RayEngine("ray://head:10001")


def test_a_lost_node_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Jobs stop half-way until one of them has got as far on the second node, however late its processes start.

    That node has the most memory, which one job would fill: it is not waited for.
    """
    half, lost = 30, tmp_path / "lost"
    (second,) = [node for node in cluster.nodes if node.is_alive]
    plan = {"steps": 60, "seconds": 0.01, "gate": (half + 1, str(lost))}
    plain = [made_job(tmp_path / name, **plan) for name in ("a", "b", "c")]
    huge = replace(made_job(tmp_path / "huge"), threads=64, memory=10**15)
    gpu = replace(made_job(tmp_path / "gpu"), gpu_memory=1)
    moved: list[str] = []

    def tell(job: Job, event: Any, told: Events, ends: Any) -> None:
        ripe = not moved and event["event"] == "saved" and event["step"] == half
        if ripe and second.has(told[job.id][0]["pid"]):
            moved.append(job.id)
            second.kill()
            until(lambda: not lives(told[job.id][0]["pid"]), 120)  # it has saved
            lost.touch()

    ends, told = run(RayEngine(cluster.address), [*plain, huge, gpu], tell)
    assert {end.code for end in ends.values()} == {FINISHED}, ends
    starts = {name: [event["step"] for event in told[name] if event["event"] == "started"] for name in ends}
    assert starts == {name: [0, half] if name in moved else [0] for name in ends}
    assert [records(job) for job in plain] == [list(range(1, 61))] * 3
    seen = {name: events[0]["environment"] for name, events in told.items()}
    assert {name: each["CUDA_VISIBLE_DEVICES"] for name, each in seen.items()} == {
        **dict.fromkeys(ends, ""),
        "gpu": "0",
    }
    assert seen["huge"]["OMP_NUM_THREADS"] == "64"
