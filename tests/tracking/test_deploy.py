"""The team's server: a composition that says what MLflow understands, and no password."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from mlflow.cli import cli

FOLDER = ROOT / "deploy" / "mlflow"
SECRET = ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_USERNAME", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY")


def test_the_composition_is_complete_and_has_no_password() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    services = pytest.importorskip("yaml").safe_load(text)
    assert set(services["services"]) == {"database", "mlflow"}
    for service in services["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert named <= set(services["volumes"]), "data outlives its container"
    example = dict(
        line.split("=", 1) for line in (FOLDER / ".env.example").read_text().splitlines() if line[:1].isalpha()
    )
    for name in SECRET:
        assert example[name] == ""
        assert re.findall(rf"\$\{{{name}(.*?)\}}", text), name
        assert all(use.startswith(":?") for use in re.findall(rf"\$\{{{name}(.*?)\}}", text)), "no default"
    server = services["services"]["mlflow"]
    assert server["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")
    assert "psycopg2" in (FOLDER / "Dockerfile").read_text()


def test_mlflow_knows_the_options() -> None:
    command = pytest.importorskip("yaml").safe_load((FOLDER / "compose.yaml").read_text())["services"]["mlflow"]
    program, door, *options = command["command"]
    assert (program, door) == ("mlflow", "server")
    known = {name for option in cli.commands[door].params for name in option.opts}
    assert {option.partition("=")[0] for option in options} <= known
