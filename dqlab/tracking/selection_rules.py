"""The selection rules: which checkpoint a run's score belongs to. `training.model_selection` computes them."""

from __future__ import annotations

from collections.abc import Mapping

SELECTION_RULES: Mapping[str, str] = {
    "last": "the checkpoint after the last update",
    "offline": "the checkpoint that the offline selection loss chooses; the environment is not asked",
    "best_online": "the checkpoint that scored best in the environment: optimistic, and not offline",
    "mean_last_10": "the mean of the last ten evaluations, of all where there are fewer; no single checkpoint",
}
"""What each means, by its name in a summary's `selection`, in the order of reports."""

CHECKPOINT_RULES: Mapping[str, str] = {"last": "last", "best": "best_online", "offline": "offline"}
"""Those that choose a checkpoint, by what `--checkpoint` calls them."""


def rule_name(rule: str) -> str:
    """A selection rule as a reader meets it."""
    return rule.replace("_", "-")
