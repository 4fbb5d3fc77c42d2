"""A run's identity: which parameters make it another run (data and seed are added where runs are told apart), and the
replicas of a pack. Neither gin nor torch is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dqlab.errors import ConfigError

EXPERIMENT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "computed": ("algorithm", "physics", "env_backend", "dtype", "action_chunk", "precision"),
    "task": ("task",),  # part of a cell, and what comparisons are made on
    "replicas": ("seeds", "cell", "replicas"),  # of a setting; each of them is a run of its own
    "machine": ("device", "threads"),  # last bits only; a cell is the same, a resume wants the configured device
}
"""What each field of `Experiment` is to the identity of a run; one that is not here fails a test."""

_RETIRED = "load_dataset.memory_map load_dataset.map_dir Collection.minari_id Collection.licence "
_RETIRED += "d4rl_download.root d4rl_download.sha256 d4rl_download.mirrors_first"
RETIRED = tuple(_RETIRED.split())
"""Parameters that earlier versions stored and that never had an effect on results; read over in gin files."""

_WITHOUT_EFFECT = """
Tracking.mlflow Tracking.patience Tracking.experiment Tracking.keep_checkpoints
Training.checkpoint_seconds Training.execution Experiment.threads import_path.folders
load_dataset.sources d4rl_download.mirrors ogbench.mirrors
"""
WITHOUT_EFFECT = (*_WITHOUT_EFFECT.split(), *RETIRED)
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


def changed_results(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lines on where two configurations of a run (of `gin_files.parse_bindings`) differ and change its results."""
    old, new = {**UNSTORED, **before}, {**UNSTORED, **after}
    found = (name for name in sorted({*old, *new} - {*WITHOUT_EFFECT}) if old.get(name) != new.get(name))
    return [f"{name}: {old.get(name, 'unset')!r} before, {new.get(name, 'unset')!r} now" for name in found]


def belongs_to_cell(name: str) -> bool:
    """Whether a parameter that is read, by its complete name, is part of what a cell of a grid is known by."""
    apart = name.removeprefix("experiment.Experiment.") in EXPERIMENT_FIELDS["replicas"] + EXPERIMENT_FIELDS["machine"]
    apart |= name.startswith((OF_GRIDS, "tracking.", "collection.")) or short_name(name) in WITHOUT_EFFECT
    return not apart or name == SOURCES  # by which the dataset is found, whose digest then stands for them


def is_as_before(name: str, value: Any) -> bool:
    """Whether a parameter, by its complete name, came later and has the value that older cells ran with: ids stay."""
    return short_name(name) in LATER and LATER[short_name(name)] == value


def describes_setting(name: str, value: Any) -> bool:
    """Whether runs are grouped by a parameter when they are compared; one that came later, where its value is new."""
    return belongs_to_setting(name) and (name not in LATER or str(LATER[name]) != str(value))  # MLflow has texts


def belongs_to_setting(name: str) -> bool:
    """Whether a parameter says what is run, on whatever task, by which seed and on which machine."""
    apart = any(name.removeprefix("Experiment.") in EXPERIMENT_FIELDS[role] for role in ("task", "replicas", "machine"))
    apart |= name in WITHOUT_EFFECT or name.startswith(("Grid.", "Report."))  # what describes a grid that trained it
    return not apart


def short_name(name: str) -> str:
    """A complete name without its module."""
    return name.partition(".")[2] or name


@dataclass(frozen=True)
class Replica:
    """One training of a pack."""

    name: str  # of its folder in the run's folder, and of its records
    seed: int  # of its initial networks and its noise
    cell: str = ""  # label of the ablation's cell that it is; empty where it is none
    points: Mapping[str, str] = field(default_factory=dict)  # the cell's place on each axis, axis name -> text
    bindings: Mapping[str, float] = field(default_factory=dict)  # scalar hyper-parameters that it sets, by gin name

    def __post_init__(self) -> None:
        mapped = isinstance(self.points, Mapping) and isinstance(self.bindings, Mapping)
        wanted = {
            "its name must be letters, digits and ._=+- only": re.fullmatch(r"\w[\w.=+-]*", self.name),
            f"seed must be an integer >= 0 (and below 2**32), not {self.seed!r}": is_seed(self.seed),
            f"cell must be a text, not {self.cell!r}": isinstance(self.cell, str),
            "points and set must be dictionaries": mapped,
        }
        if faults := [text for text, holds in wanted.items() if not holds]:
            raise ConfigError(f"Experiment.replicas['{self.name}']: {faults[0]}.")

    @classmethod
    def plain(cls, seed: int, cell: str = "") -> Replica:
        """A seed of an ordinary run."""
        return cls(f"seed-{seed}", seed, cell)

    @classmethod
    def read(cls, name: str, given: Any) -> Replica:
        """A replica as gin says it, and run.json: `{'seed': 0, 'cell': '...', 'points': {...}, 'set': {...}}`."""
        if not isinstance(given, Mapping) or "seed" not in given or set(given) - {"seed", "cell", "points", "set"}:
            wanted = "{'seed': ..., 'cell': ..., 'points': ..., 'set': ...}"
            raise ConfigError(f"Experiment.replicas['{name}'] must be {wanted}, not {given!r}.")
        return cls(str(name), given["seed"], given.get("cell", ""), given.get("points", {}), given.get("set", {}))

    def as_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "cell": self.cell, "points": dict(self.points), "set": dict(self.bindings)}

    @property
    def title(self) -> str:
        """What a person calls it: `seed 0`, `eta=0.5, seed 0`."""
        return f"{self.cell}, seed {self.seed}" if self.cell else f"seed {self.seed}"


def replicas_of(facts: Mapping[str, Any]) -> list[Replica]:
    """A run's replicas, as its run.json has them; where they have no names yet, by their seeds."""
    named = facts.get("replicas") or {f"seed-{seed}": {"seed": seed} for seed in facts["seeds"]}
    return [Replica.read(name, given) for name, given in named.items()]


def is_seed(value: Any) -> bool:
    """Whether a value can seed a replica."""
    return type(value) is int and 0 <= value < 2**32
