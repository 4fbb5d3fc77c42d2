"""Settings that gave the same results in every run."""

from __future__ import annotations

from collections import defaultdict

from dqlab.ablation.results import RULES, GridResults


def same_settings(results: GridResults) -> list[tuple[str, ...]]:
    """Groups of labels that ran the same cells, or whose runs have the same scores by every rule."""
    ran: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    scored: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    for result in results.results:
        cell = result.cell
        ran[cell.label].append((cell.task, cell.seed, cell.id))
        scored[cell.label].append((cell.task, cell.seed, *(result.score(rule) for rule in RULES)))
    groups = [*_groups(results.labels, ran), *_groups(results.labels, scored)]
    return list(dict.fromkeys(groups))


def _groups(labels: tuple[str, ...], of: dict[str, list[tuple[object, ...]]]) -> list[tuple[str, ...]]:
    alike: dict[frozenset[tuple[object, ...]], list[str]] = defaultdict(list)
    for label in labels:
        if of[label]:
            alike[frozenset(of[label])].append(label)
    return [tuple(group) for group in alike.values() if len(group) > 1]
