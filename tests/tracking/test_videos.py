"""Videos of a grid's cells, whose packs have long been sent; each is sent once, and again where it has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_folders import folder_of, write_grid
from made_grids import made_grid
from mlflow_stores import fresh_store

from dqlab.tracking.mlflow.client import mlflow_client
from dqlab.tracking.mlflow.sync import is_tracked, keep_video, send_folder


def test_of_a_cell_whose_pack_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = made_grid(values=(2,), seeds=2)
    grid, uri = write_grid(tmp_path / "grid", results), fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = folder_of(grid, results, results.results[0].cell)
    assert not is_tracked(first.parent)
    send_folder(grid, uri, "steps", over=True)
    assert is_tracked(first.parent)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    kept = keep_video(tmp_path / "a.mp4", first, 500)
    assert keep_video(kept, first, 500) == kept, "one that lies there already"
    client = mlflow_client(uri)
    for content in (b"a video", b"another one"):
        kept.write_bytes(content)
        for _ in range(2):
            send_folder(grid, uri, "steps", over=True)
        state = json.loads((first.parent / "mlflow.json").read_text())
        runs = {key.rpartition(" ")[2]: known["run"] for key, known in list(state["runs"].items())[1:]}
        run = runs.pop(first.name)
        assert [item.path for item in client.list_artifacts(run, "videos")] == ["videos/step-000000500.mp4"]
        assert Path(client.download_artifacts(run, "videos/step-000000500.mp4", tmp_path)).read_bytes() == content
        assert not any(client.list_artifacts(other, "videos") for other in runs.values())
