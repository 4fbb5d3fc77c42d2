"""Every engine, held to what engines promise, with jobs that are processes and really die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import Cluster, lives, until

from dqlab.ablation.engines.base import FAILED, FINISHED, STOPPED, Engine, Job
from dqlab.ablation.engines.local import LocalEngine
from dqlab.ablation.engines.ray import RayEngine
from dqlab.ablation.engines.slurm import SlurmEngine
from dqlab.errors import ConfigError
from dqlab.tools.conformance.training import made_job

NEEDED = {"local": "json", "slurm": "submitit", "ray": "ray"}
Events = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes, which are never idle: they end with these tests."""
    with closing(Cluster()) as cluster:
        cluster.join()
        yield cluster.address


@pytest.fixture(params=list(NEEDED))
def engine(request: pytest.FixtureRequest) -> Engine:
    if find_spec(NEEDED[request.param]) is None:
        pytest.skip(f"{NEEDED[request.param]} is not installed")
    made: dict[str, Callable[[], Engine]] = {
        "local": lambda: LocalEngine(workers=2),
        "slurm": lambda: SlurmEngine(cluster="local"),
        "ray": lambda: RayEngine(request.getfixturevalue("address")),
    }
    return made[request.param]()


def run(engine: Engine, jobs: list[Job], then: Callable[[Job, dict[str, Any]], None] | None = None) -> Any:
    """Run jobs; how each ended, and what it told, by id."""
    told: Events = defaultdict(list)

    def tell(job: Job, event: Any) -> None:
        told[job.id].append(dict(event))
        if then is not None:
            then(job, dict(event))

    ends = list(engine.run(jobs, tell))
    assert sorted(ended.job.id for ended in ends) == sorted(job.id for job in jobs), "each job ends once"
    return {ended.job.id: ended for ended in ends}, told


def names(events: list[dict[str, Any]]) -> list[str]:
    return [f"{event['event']} {event.get('step', '')}".strip() for event in events]


def step_of(job: Job) -> int:
    path = job.folder / "checkpoint.safetensors"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def records(job: Job) -> list[int]:
    return [json.loads(line)["step"] for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_job_that_fails_or_dies_ends_no_other(engine: Engine, tmp_path: Path) -> None:
    jobs = [
        made_job(tmp_path / "sound", steps=3),
        made_job(tmp_path / "failing", fail_at=2),
        made_job(tmp_path / "dying-once", steps=3, die_at=3),
        made_job(tmp_path / "dying", die_at=2, deaths=9),
    ]
    ends, told = run(engine, jobs)
    assert {name: end.code for name, end in ends.items()} == {
        "sound": FINISHED,
        "failing": FAILED,
        "dying-once": FINISHED,
        "dying": -9,
    }
    assert ends["failing"].reason == "it was told to"
    assert ends["dying"].reason.startswith("killed by SIGKILL (out of memory?)")
    assert names(told["sound"]) == ["started 0", "saved 1", "saved 2", "saved 3", "finished"]
    assert names(told["dying-once"]) == ["started 0", "saved 1", "saved 2", "started 2", "saved 3", "finished"]
    assert names(told["dying"]) == ["started 0", "saved 1", "started 1", "started 1"]  # two retries
    assert [records(job) for job in jobs] == [[1, 2, 3], [1], [1, 2, 3], [1]]
    assert "counting to 3" in jobs[0].log.read_text(), "what is no event goes to the log"


def test_stopped_jobs_continue_where_they_were(engine: Engine, tmp_path: Path) -> None:
    jobs = [made_job(tmp_path / name, steps=400, seconds=0.05) for name in ("a", "b", "c", "d")]

    def stop(job: Job, event: dict[str, Any]) -> None:
        if event.get("step") == 3:
            engine.stop()

    once = iter([stop])
    ends, told = run(engine, jobs, lambda job, event: stop(job, event) if not told_to_stop(event, once) else None)
    assert {end.code for end in ends.values()} == {STOPPED}
    begun = [job for job in jobs if told[job.id]]
    assert begun
    for job in begun:
        assert step_of(job) == max(event.get("step", 0) for event in told[job.id])
        (job.folder / "pack.gin").write_text(f"steps = {step_of(job) + 2}")
    ends, again = run(engine, begun)
    assert {end.code for end in ends.values()} == {FINISHED}
    assert [again[job.id][0]["step"] for job in begun] == [told[job.id][-1]["step"] for job in begun]


def told_to_stop(event: dict[str, Any], once: Iterator[object]) -> bool:
    """Whether the one request to stop has been made already."""
    return event.get("step") == 3 and next(once, None) is None


def test_a_second_stop_kills(engine: Engine, tmp_path: Path) -> None:
    job, pids = made_job(tmp_path / "deaf", steps=10_000, seconds=0.05, deaf=True), []

    def stop(job: Job, event: dict[str, Any]) -> None:
        pids.extend([event["pid"]] if "pid" in event else [])
        if event.get("step") in (2, 20):
            engine.stop()

    started = time.monotonic()
    ends, _ = run(engine, [job], stop)
    assert ends["deaf"].code == STOPPED
    assert time.monotonic() - started < 200
    until(lambda: not lives(pids[0]), 120)


def test_no_more_at_a_time_than_asked_the_longest_first(tmp_path: Path) -> None:
    jobs = [replace(made_job(tmp_path / str(seconds), steps=2), seconds=seconds) for seconds in (1, 3, 2)]
    order: list[str] = []
    for end in LocalEngine(workers=1).run(jobs, lambda job, event: order.append(f"{job.id} {event['event']}")):
        order.append(f"{end.job.id} ended")
    whole = ["started", "saved", "saved", "finished", "ended"]
    assert [line for line in order if "ended" not in line] == [
        f"{name} {event}" for name in (3, 2, 1) for event in whole[:-1]
    ]


def test_workers_have_their_own_gpu_and_threads(tmp_path: Path) -> None:
    gpu = [replace(made_job(tmp_path / f"gpu{i}", seconds=0.1), gpu_memory=1, threads=3) for i in range(4)]
    seen: dict[str, tuple[str, str]] = {}
    running: dict[str, str] = {}

    def tell(job: Job, event: Any) -> None:
        if event["event"] == "started":
            seen[job.id] = event["environment"]["CUDA_VISIBLE_DEVICES"], event["environment"]["OMP_NUM_THREADS"]
            assert seen[job.id][0] == "" or seen[job.id][0] not in running.values(), "two packs on one GPU"
            running[job.id] = seen[job.id][0]
        if event["event"] == "finished":
            del running[job.id]

    engine = LocalEngine(devices=("3", "5"))
    ends = list(engine.run([*gpu, made_job(tmp_path / "cpu")], tell))
    assert {end.code for end in ends} == {FINISHED}
    assert {seen[job.id] for job in gpu} == {("3", "3"), ("5", "3")}
    assert seen["cpu"] == ("", "1")


def test_packs_on_one_gpu_have_a_share_each(tmp_path: Path) -> None:
    """Three at a time on two GPUs: two of them share one."""
    jobs = [replace(made_job(tmp_path / str(i), seconds=0.3), gpu_memory=1) for i in range(3)]
    seen: set[tuple[str, str | None]] = set()

    def tell(job: Job, event: Any) -> None:
        if event["event"] == "started":
            seen.add((event["environment"]["CUDA_VISIBLE_DEVICES"], event["environment"]["DQLAB_GPU_SHARE"]))

    list(LocalEngine(workers=3, devices=("3", "5")).run(jobs, tell))
    assert seen == {("3", "0.5"), ("5", None)}


@pytest.mark.parametrize(("threads", "memory", "room"), [(1, 0, 4), (2, 0, 2), (9, 0, 1), (1, 300, 3), (1, 5000, 1)])
def test_as_many_as_cores_and_memory_have_room_for(
    threads: int, memory: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dqlab.ablation.engines.local.cores", lambda: 4)
    monkeypatch.setattr("dqlab.training.probe.free_bytes", lambda device: 1001)
    jobs = [Job(str(index), tmp_path, (), threads, memory) for index in range(7)]
    assert LocalEngine._room(jobs, ()) == room


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
from dqlab.ablation.engines.base import Job
from dqlab.ablation.engines.{module} import {engine}

jobs = [Job(path.name, path, worker="dqlab.tools.conformance.counting_job") for path in map(Path, sys.argv[1:])]
def tell(job, event):
    if "pid" in event:
        (job.folder.parent / (job.id + ".pid")).write_text(str(event["pid"]))
for ended in {engine}({arguments}).run(jobs, tell):
    pass
"""


def kill_driver(module: str, engine: str, arguments: str, jobs: list[Job]) -> list[int]:
    """Run jobs by a driver of its own and kill it when all have a checkpoint; their process ids."""
    code = DRIVER.format(module=module, engine=engine, arguments=arguments)
    paths = [str(job.folder) for job in jobs]
    driver = subprocess.Popen([sys.executable, "-c", code, *paths])
    pids = [job.folder.parent / f"{job.id}.pid" for job in jobs]
    try:
        until(lambda: all(map(Path.exists, pids)) and all(map(step_of, jobs)), 180)
    finally:
        driver.kill()
        driver.wait()
    return [int(path.read_text()) for path in pids]


def test_workers_of_a_killed_driver_save_and_end(tmp_path: Path) -> None:
    jobs = [made_job(tmp_path / name, steps=9999, seconds=0.05) for name in ("a", "b")]
    pids = kill_driver("local", "LocalEngine", "workers=2", jobs)
    until(lambda: not any(map(lives, pids)), 180)
    for job in jobs:
        assert records(job) == list(range(1, step_of(job) + 1))
        (job.folder / "pack.gin").write_text(f"steps = {step_of(job) + 1}")
    ends, told = run(LocalEngine(workers=2), jobs)
    assert {end.code for end in ends.values()} == {FINISHED}
    assert all(len(told[job.id]) == 3 for job in jobs), "one step more, and the end"


def test_a_ray_driver_that_is_killed_leaves_no_workers(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs = [made_job(tmp_path / name, steps=9999, seconds=0.05) for name in ("a", "b")]
    pids = kill_driver("ray", "RayEngine", repr(address), jobs)
    until(lambda: not any(map(lives, pids)), 180)
    assert all(step_of(job) for job in jobs)


def test_preempted_slurm_jobs_are_requeued_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    from dqlab.ablation.engines import slurm

    job, submitted = made_job(tmp_path / "a", steps=40, seconds=0.05), []
    submit = SlurmEngine.submit

    def keep(engine: SlurmEngine, job: Job, *notes: Any) -> Any:
        submitted.append(submit(engine, job, *notes))
        return submitted[-1]

    monkeypatch.setattr(SlurmEngine, "submit", keep)
    monkeypatch.setattr(slurm, "POLL", 0.1)

    def interrupt(job: Job, event: dict[str, Any]) -> None:
        if event.get("step") == 3 and event["event"] == "saved":
            tasks = Path(f"/proc/{submitted[0].job_id}/task/{submitted[0].job_id}/children").read_text().split()
            os.kill(int(tasks[0]), 12)  # SIGUSR2, as SLURM sends it

    ends, told = run(SlurmEngine(cluster="local"), [job], interrupt)
    assert ends["a"].code == FINISHED
    starts = [event["step"] for event in told["a"] if event["event"] == "started"]
    assert len(starts) == 2
    assert starts[1] >= 3
    assert records(job) == list(range(1, 41))


@pytest.mark.parametrize("module", ["ray", "submitit"])
def test_what_is_not_installed_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    engine = {"ray": RayEngine, "submitit": SlurmEngine}[module]()
    with pytest.raises(ConfigError, match=r"pip install 'dqlab\[(ray|slurm)\]'"):
        list(engine.run([made_job(tmp_path / "a")], print))
