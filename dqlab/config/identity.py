"""Which parameters make a run another run. What else does (data, seed) is added where runs are told apart.

Neither gin nor torch is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPERIMENT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "computed": ("algorithm", "physics", "env_backend", "dtype", "action_chunk", "precision"),
    "task": ("task",),  # part of a cell, and what comparisons are made on
    "replicas": ("seeds", "cell", "replicas"),  # of a setting; each of them is a run of its own
    "machine": ("device", "threads"),  # last bits only; a cell is the same, a resume wants the configured device
}
"""What each field of `Experiment` is to the identity of a run; one that is not here fails a test."""

RETIRED = (
    "load_dataset.memory_map",
    "load_dataset.map_dir",
    "Collection.minari_id",
    "d4rl_download.root",
    "d4rl_download.sha256",
)
"""Parameters that earlier versions stored and that never had an effect on results; read over in gin files."""

WITHOUT_EFFECT = (
    "Tracking.mlflow",
    "Tracking.patience",
    "Tracking.experiment",
    "Tracking.keep_checkpoints",
    "Training.checkpoint_seconds",
    "Training.execution",
    "Experiment.threads",
    "load_dataset.sources",
    "d4rl_download.mirrors",
    "d4rl_download.mirrors_first",
    "ogbench.mirrors",
    "import_path.folders",
    *RETIRED,
)
"""What a resumed run may change: its results do not depend on it (on execution and threads, in their last bits; and
instead of where the dataset comes from, its digest is compared)."""

_SWITCHES = """
FQL.joint_update EDP.joint_update QSM.joint_update ReBRAC.joint_update DAC.linear_eta DTQL.joint_values
EDP.clips_members QSM.raw_score QAM.joint_grad_norm QSM.joint_grad_norm QAMEdit.joint_grad_norm
MLPDenoiser.time_active ChainValueNetwork.time_active
"""
_CRITICS = ("LowerBoundEnsemble", "MeanEnsemble", "MinimumEnsemble", "REDQ", "SoftClippedEnsemble", "TQC", "TwinCritic")
LATER: Mapping[str, Any] = {
    **dict.fromkeys(_SWITCHES.split(), False),
    **{f"{network}.norm_after": False for network in (*_CRITICS, "ValueNetwork")},
    **{f"{network}.norm_eps": 1e-5 for network in (*_CRITICS, "ValueNetwork", "LNResnet", "ChainValueNetwork")},
    "Experiment.env_backend": "gymnasium",
    "Experiment.action_chunk": 1,
    "load_dataset.action_bounds": "unit",
    "DPMSolverPP.quadratic_weight": 1.0,
    "EDAC.slope_floor": 0.0,
    "MeanFlowQL.targets_lag": True,
    "DTQL.pretrain_decays": True,
    "QAMEdit.bounded_multiplier": True,
    "IDQL.weight_decay": 0.0,
    "MLPDenoiser.time_endpoint": True,
    "MMDQL.match_noise_clip": 0.0,
    "MMDQL.multiplier_spread": 0.0,
    "Perturbation.activation": "mish",
}
"""Parameters that were added after runs had been stored, with the value at which those ran."""

UNSTORED = {**LATER, "patience.tolerance": 5, "patience.min_delta": 0.0, "last_two.initial": 100.0}
"""`LATER`, and those parameters that were once read too late to be stored."""

TASK = "experiment.Experiment.task"
SOURCES = "data.load_dataset.sources"
OF_GRIDS = "ablation."
"""Modules in gin of what describes a grid, and not its cells."""
_NOT_OF_RUNS = (OF_GRIDS, "tracking.", "collection.")
_ABOUT_GRIDS = ("Grid.", "Report.")
"""How the configuration of a run that a grid has trained names what describes the grid."""


def changed_results(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What two configurations of a run, as `gin_syntax.parse_bindings` reads them, differ in that changes its results.

    A line each.
    """
    old, new = {**UNSTORED, **before}, {**UNSTORED, **after}
    found = (name for name in sorted({*old, *new} - {*WITHOUT_EFFECT}) if old.get(name) != new.get(name))
    return [f"{name}: {old.get(name, 'unset')!r} before, {new.get(name, 'unset')!r} now" for name in found]


def belongs_to_cell(name: str) -> bool:
    """Whether a parameter that is read, by its complete name, is part of what a cell of a grid is known by."""
    apart = name.removeprefix("experiment.Experiment.") in EXPERIMENT_FIELDS["replicas"] + EXPERIMENT_FIELDS["machine"]
    apart |= name.startswith(_NOT_OF_RUNS) or short_name(name) in WITHOUT_EFFECT
    return not apart or name == SOURCES  # by which the dataset is found, whose digest then stands for them


def is_as_before(name: str, value: Any) -> bool:
    """Whether a parameter, by its complete name, came later and has the value that older cells ran with: ids stay."""
    return short_name(name) in LATER and LATER[short_name(name)] == value


def describes_setting(name: str, value: Any) -> bool:
    """Whether a parameter is part of the configuration that runs are grouped by when they are compared.

    Seeds and tasks are compared in other ways; what came later counts where it is not at its old value.
    """
    apart = any(name.removeprefix("Experiment.") in EXPERIMENT_FIELDS[role] for role in ("task", "replicas", "machine"))
    apart |= name in WITHOUT_EFFECT or name.startswith(_ABOUT_GRIDS)
    return not apart and LATER.get(name, ...) != value


def short_name(name: str) -> str:
    """A complete name without its module."""
    return name.partition(".")[2] or name
