"""Which parameters make another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
WITHOUT_EFFECT = (
    "Tracking.mlflow",
    "Tracking.patience",
    "Tracking.experiment",
    "Tracking.keep_checkpoints",
    "Training.checkpoint_seconds",
    "Training.execution",
    "Experiment.threads",
    "load_dataset.sources",
    "load_dataset.memory_map",
    "load_dataset.map_dir",
    "d4rl_download.mirrors",
    "d4rl_download.mirrors_first",
    "import_path.folders",
)
"""What a resumed run may change: its results do not depend on it (on execution and threads, in their last bits; and
instead of where the dataset comes from, its digest is compared)."""

LATER = {
    "Experiment.env_backend": "gymnasium",
    "load_dataset.action_bounds": "unit",
    "DPMSolverPP.quadratic_weight": 1.0,
    "FQL.joint_update": False,
    "EDP.joint_update": False,
    "EDP.clips_members": False,
    "IDQL.weight_decay": 0.0,
    "LNResnet.norm_eps": 1e-5,
    "MLPDenoiser.time_endpoint": True,
    "MMDQL.match_noise_clip": 0.0,
    "MMDQL.multiplier_spread": 0.0,
    "MeanEnsemble.norm_after": False,
    "MeanEnsemble.norm_eps": 1e-5,
    "Perturbation.activation": "mish",
    "TQC.norm_after": False,
    "TQC.norm_eps": 1e-5,
}
"""Parameters that came after runs were stored, with the value at which those ran."""
UNSTORED = {**LATER, "patience.tolerance": 5, "patience.min_delta": 0.0, "last_two.initial": 100.0}
"""The same, with those that were once read too late to be stored."""
