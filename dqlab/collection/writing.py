"""A collection is written: in every format that is asked for, and with a gin file that trains on it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from dqlab.collection.collected import FIELDS, Collected
from dqlab.collection.shards import save_text
from dqlab.data.blocks import raw_blocks
from dqlab.data.formats.base import Columns, data_formats
from dqlab.datasets.new_task import module_statements
from dqlab.envs.custom import task_statements


def write(collected: Collected, folder: Path) -> list[str]:
    """Write the set in every format that is asked for, and `NAME.gin`, which trains on it.

    Returns:
        Where each is, as the source `file:` takes it.

    Raises:
        DataError: a set cannot be written.
    """
    recipe, columns = collected.recipe, collected.columns
    name = recipe.the_name(collected.reference[0])
    columns = replace(columns, metadata={**columns.metadata, "rows_sha256": digest(columns)})
    named = []
    for each, place in recipe.targets(collected.reference[0], folder).items():
        data_formats.get(each)().write(place, columns)
        named.append(str(place.resolve()) if data_formats.get(each).suffixes else f"{each}:{place}")
    file = folder / f"{name}.gin"
    save_text(file, training_gin(collected, named[0], file))
    return named


def digest(columns: Columns) -> str:
    """SHA-256 of the values of the rows, a field after the other, in the order of `FIELDS`."""
    sha = hashlib.sha256()
    for name in FIELDS:
        for _, block in raw_blocks(getattr(columns, name)):
            sha.update(np.ascontiguousarray(block).tobytes())
    return sha.hexdigest()


def training_gin(collected: Collected, place: str, file: Path) -> str:
    """The text of a gin file that trains Diffusion-QL on the set."""
    recipe, (task, origin) = collected.recipe, collected.reference
    lines = [
        f"# Diffusion-QL on {recipe.the_name(task)}, collected by dqlab.",
        f"#     dqlab train --gin {recipe.the_name(task)}.gin",
        "include 'gin/base/diffusion_ql.gin'",
        "",
    ]
    if recipe.task:
        lines += [f"Experiment.task = {recipe.task!r}"]
    else:
        lines += [*module_statements(recipe.env_id, file), *task_statements(task, origin)]
    return "\n".join([*lines, f"load_dataset.sources = ({f'file:{place}'!r},)"]) + "\n"
