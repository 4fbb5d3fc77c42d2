"""A Ray cluster of several nodes, one of which is killed: nothing is lost, nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray_cluster import TOKEN, Cluster

pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster()
    cluster.join()
    yield cluster
    cluster.close()
