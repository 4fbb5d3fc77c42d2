"""The team's server: a composition that says what MLflow understands, and no password."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from mlflow.cli import cli

FOLDER = ROOT / "deploy" / "mlflow"
SECRET = ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_USERNAME", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY")


def test_the_composition_is_complete_and_has_no_password() -> None:
    """And MLflow knows the options of the server's command."""
    text = (FOLDER / "compose.yaml").read_text()
    composition = pytest.importorskip("yaml").safe_load(text)
    services = composition["services"]
    assert set(services) == {"database", "mlflow"}
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert named <= set(composition["volumes"]), "data outlives its container"
    example = (FOLDER / ".env.example").read_text().splitlines()
    for name in SECRET:
        assert f"{name}=" in example
        uses = re.findall(rf"\$\{{{name}(.*?)\}}", text)
        assert {use[:2] for use in uses} == {":?"}, f"{name} has no default"
    assert services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")
    assert "psycopg2" in (FOLDER / "Dockerfile").read_text()
    program, door, *options = services["mlflow"]["command"]
    known = {name for option in cli.commands[door].params for name in option.opts}
    assert (program, door, {option.partition("=")[0] for option in options} <= known) == ("mlflow", "server", True)
