"""What dqlab's files of records hold: one schema each, by which every reader of a file reads it.

A record may come from a stranger, a full disk or another version. What does not fit is never used, but named in a line.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import NotRequired, TypedDict

from dqlab.errors import RunError, one_line, printable
from dqlab.files import read_bytes
from dqlab.tracking.selection_rules import CHECKPOINT_RULES, SELECTION_RULES

Name = Annotated[str, Field(pattern=r"^\w[\w.=+-]*$", max_length=200)]  # of a folder beside the record: no path
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, lt=1e11)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ReplicaRecord(TypedDict):
    """A replica, as run.json has it: `Replica.as_dict`."""

    seed: Seed
    cell: NotRequired[str]
    points: NotRequired[dict[str, str]]
    set: NotRequired[dict[str, float]]


class DataRecord(TypedDict):
    """A run's dataset, as run.json has it: the fields of `Provenance`."""

    source: str
    digest: str
    is_d4rl: bool
    synthetic: NotRequired[bool]
    note: NotRequired[str | None]
    rows: NotRequired[Count]
    episodes: NotRequired[Count]
    state_mean: NotRequired[list[float]]
    state_std: NotRequired[list[float]]


class RunRecord(TypedDict):
    """run.json."""

    task: str
    data: DataRecord
    versions: dict[str, str]
    plugin_sources: NotRequired[dict[str, str]]
    algorithm: NotRequired[str]
    cell: NotRequired[str]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    replicas: NotRequired[dict[Name, ReplicaRecord]]
    physics: NotRequired[str]
    device: str
    device_name: str
    git_commit: str
    caveat: str
    execution: NotRequired[str]
    execution_configured: NotRequired[str]
    variants: NotRequired[dict[str, str]]
    parameters: NotRequired[dict[str, Any]]
    mlflow_experiment: NotRequired[str]
    mlflow_uri: NotRequired[str]
    state: Literal["running", "interrupted", "finished", "failed"]
    reason: NotRequired[str]


@with_config(ConfigDict(extra="forbid"))
class EvaluationRecord(TypedDict):
    """One evaluation of one replica, after `step` updates.

    `return_*` are of its episodes, undiscounted; `score_*` are the same, D4RL-normalised;
    `selection_loss` is the algorithm's own offline criterion (mean L_bc since the previous evaluation, or the last one
    known where its network rested since), None where that is not known: before the first update, and in other phases;
    `losses` are every loss's mean since then.
    """

    step: Count
    return_mean: float
    return_std: float
    score_mean: float
    score_std: float
    selection_loss: float | None
    losses: NotRequired[dict[str, float]]


@with_config(ConfigDict(extra="forbid"))
class FailedEvaluationRecord(TypedDict):
    """An evaluation that gave no score, and why; early stopping goes by its loss, no selection rule does."""

    step: Count
    reason: str
    selection_loss: NotRequired[float | None]


class ChosenRecord(TypedDict):
    """A score by one selection rule, and the step of its checkpoint, if it has one."""

    step: Count | None
    score_mean: Finite
    score_std: NotRequired[float]


def _every_rule(selection: dict[str, ChosenRecord]) -> dict[str, ChosenRecord]:
    if missing := [rule for rule in SELECTION_RULES if rule not in selection]:
        raise ValueError(f"it has no {missing[0]}")
    if without := [rule for rule in CHECKPOINT_RULES.values() if selection[rule]["step"] is None]:
        raise ValueError(f"{without[0]} has no step")
    return selection


class SummaryRecord(TypedDict):
    """summary.json of a replica."""

    task: str
    caveat: str
    physics: str
    selection: Annotated[dict[str, ChosenRecord], AfterValidator(_every_rule)]
    evaluations: Annotated[list[EvaluationRecord], Field(min_length=1)]
    untrained: NotRequired[EvaluationRecord | None]
    seed: NotRequired[Seed]
    cell: NotRequired[str]
    steps: NotRequired[Count]
    algorithm: NotRequired[str]


class InspectionRecord(TypedDict):
    """inspection.json of a replica: what `inspect_replica` saw of its policy.

    Actions are (n, A) in [-1, 1], in the same states; `values` and `returns` belong together; `chain` is (M, n, A),
    after `chain_steps` denoising steps.
    """

    replica: str
    step: Count
    task: str
    algorithm: str
    data_actions: list[list[float]]
    policy_actions: list[list[float]]
    values: list[float]
    returns: list[float]
    chain: list[list[list[float]]]
    chain_steps: list[Count]


class FailureRecord(TypedDict):
    """failure.json of a replica."""

    kind: str
    reason: str
    step: NotRequired[Count | None]


class BegunGridRecord(TypedDict):
    """grid.json from its first moment on."""

    name: str
    seconds: NotRequired[Seconds]
    state: NotRequired[str]
    caveat: NotRequired[str]
    command: NotRequired[str]
    crashed: NotRequired[dict[Name, str]]
    elsewhere: NotRequired[dict[Name, str] | None]
    mlflow_experiment: NotRequired[str]
    mlflow_uri: NotRequired[str]


class GridRecord(BegunGridRecord):
    """grid.json of a grid that has been planned."""

    axes: dict[str, list[str]]
    base: str
    tasks: list[str]
    seeds: list[Seed]
    gin: str
    packs: list[Name]
    cells: Count


class CellRecord(TypedDict):
    """A cell of a grid, as plan.json has it: `Cell.as_dict`."""

    id: Name
    label: str
    points: dict[str, str]
    task: str
    seed: Seed


class PlanRecord(TypedDict):
    """plan.json."""

    cells: list[CellRecord]
    packs: dict[Name, list[Name]]


class NotesRecord(TypedDict):
    """notes.json, beside run.json or grid.json: what its owner says of a run or a grid."""

    tags: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)], str]
    note: Annotated[str, Field(max_length=5000)]


class SentRecord(TypedDict):
    """What MLflow has of one run: its journal's records and bytes (or null), a digest of tags, each file's version."""

    run: Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]
    status: str
    records: Count
    bytes: int | None
    tags: str
    files: dict[str, str]
    deleted: NotRequired[bool]


class MemoryRecord(TypedDict):
    """mlflow.json: what has been sent of a run, a pack or a grid."""

    uri: str
    grid: NotRequired[str]
    owner: NotRequired[Name]
    attempt: NotRequired[Annotated[str, Field(pattern=r"^\w*$")]]
    settled: NotRequired[list[Name]]
    runs: NotRequired[dict[str, SentRecord]]


class JournalRecord(TypedDict):
    """A line of metrics.jsonl."""

    step: Count
    time: Seconds
    metrics: dict[str, float]


class WeightsRecord(TypedDict):
    """What a file of checkpoints/ says of its weights."""

    step: Count
    seed: NotRequired[Seed]
    replica: NotRequired[str]


@with_config(ConfigDict(extra="forbid"))
class FailedRecord(TypedDict):
    """Why a replica ended before its time, in one line, and after how many updates that was noticed; its kind is
    `diverged`: it would again; or `evaluation`: its last one gave no score, which a resume repeats.
    """

    kind: str
    reason: str
    step: Count


class StateRecord(TypedDict):
    """What checkpoint.safetensors says of a training state."""

    step: Count
    seeds: list[Seed]
    stopped: list[Name]
    failed: dict[Name, FailedRecord]
    evaluations: dict[Name, list[EvaluationRecord]]
    journal: dict[Name, Count]
    failed_evaluations: NotRequired[dict[Name, list[FailedEvaluationRecord]]]
    evaluated_at: NotRequired[Annotated[int, Field(ge=-1, lt=2**53)]]
    interval_start: NotRequired[Count]
    interval_steps: NotRequired[Count]  # in its place, in earlier versions
    logged_at: NotRequired[Count]


AGAIN = "Restore it from a copy, or move the folder away and train again."
REMEDIES: dict[object, str] = {
    SummaryRecord: "Delete it to have the cell trained again, or restore it from a copy.",
    InspectionRecord: "Delete it: it is made anew where it is asked for.",
    **dict.fromkeys((FailureRecord, dict[str, Any]), "Delete it, and run the same command again."),
    **dict.fromkeys((BegunGridRecord, GridRecord), "Delete it, and run the grid's command again."),
    PlanRecord: "Delete it: what has finished is kept, and packs that were under way begin anew.",
    NotesRecord: "Mend or delete it: it has no more than tags and a note.",
    MemoryRecord: "Delete it to have everything recorded anew.",
}
"""What to do with a file that does not fit its schema."""
Record = TypeVar("Record")
_adapter: Any = cache(TypeAdapter)


def read_record(path: Path, kind: type[Record]) -> Record:
    """A file's record. Raises RunError: the file is not there, cannot be read, or does not fit the schema."""
    try:
        return parse_record(read_bytes(path), kind)
    except (OSError, ValueError) as error:
        raise damage_message(path, error, REMEDIES.get(kind, AGAIN)) from error


def parse_record(text: bytes | str, kind: type[Record]) -> Record:
    """A record as it was written, unknown names included. Raises ValueError: it is no JSON, or does not fit."""
    found = from_json(text)
    _adapter(kind).validate_python(found, strict=True)
    return cast(Record, found)


def read_journal(path: Path, start: int = 0, stop: int | None = None) -> list[JournalRecord]:
    """Some records of a metrics.jsonl, without a line that is still being written; a RunError where one is damaged."""
    try:
        lines = read_bytes(path).split(b"\n")[:-1][start:stop] if path.exists() else []
        text = b"\n" * start + b"[" + b",\n".join(lines) + b"]"  # a mistake is told of by its line of the file
        found = parse_record(text, list[JournalRecord])
        if len(found) != len(lines):
            raise ValueError("a line holds more than one record")
        return found
    except (OSError, ValueError) as error:
        raise damage_message(path, error) from error


def damage_message(path: Path, error: Exception, remedy: str = AGAIN) -> RunError:
    """The one line about a file that cannot be used."""
    return RunError(f"{path} is damaged ({in_short(error)}). {remedy}")


def in_short(error: Exception) -> str:
    """What is wrong with a record: the first place that does not fit its schema."""
    if not isinstance(error, ValidationError):
        return one_line(error, 120)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return printable(f"it has no {place}", 120, keep="")
    said = first["msg"].removeprefix("Value error, ")
    return printable(f"{place}: {said[:1].lower()}{said[1:]}" if place else said, 160, keep="")
