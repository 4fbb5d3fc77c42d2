"""What users start from: `dqlab new-task`, a gin file for their data and environment once the two are known to fit, and
`dqlab new-plugin`, a package with components of five kinds (examples/dqlab-plugin by another name)."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.plugins import importable
from dqlab.data.formats.base import Columns
from dqlab.data.locate import Survey, find_faults, locate_dataset
from dqlab.data.transitions import BOUNDS_ADVICE, action_rule, bounds_text, is_unit, unit_actions
from dqlab.envs import env_backends
from dqlab.envs.custom import action_bounds, describe_environment, task_statements
from dqlab.envs.tasks import Task
from dqlab.errors import PACKAGE, ConfigError, DataError
from dqlab.files import new_folder, write_text

BUDGET = ("Training.steps = 100_000          # updates; the paper's run has 2,000,000", "Training.eval_every = 10_000")
MEANT = {
    "unit": "shares of the environment's bounds, in [-1, 1]",
    "env": "in the environment's units, rescaled to [-1, 1]",
    "as_is": "taken as they are",
}


def new_task(
    data: str, env_id: str, kwargs: dict[str, Any], out: Path | None, rule: str, limit: int, episodes: int, force: bool
) -> list[str]:
    """Write the gin file, of arguments as the command has them; returns what has been found out, in lines.

    A DataError where the data are damaged, or not the environment's (other widths, actions out of its bounds); a
    ConfigError where the environment cannot be used, it cannot be told how actions are meant, or the file exists.
    """
    if episodes < 1 or limit < 0:
        raise ConfigError("dqlab new-task wants at least one episode, and no negative limit.")
    dataset = locate_dataset(data)
    out = out or Path(f"{Path(dataset.path.name).stem}.gin")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists. Name another file with --out; --force replaces it.")
    task = describe_environment(env_id, kwargs, limit)
    columns = dataset.read()
    found = Survey(columns, task)
    damage, notes = find_faults(found)
    if damage:
        raise DataError(f"{data}: {'; '.join(damage)}.")
    rule = _rule(columns, task, rule)
    scored, origin = _references(task, found.returns, random_returns(task, episodes))
    place = f"file:{dataset.path.resolve() if dataset.format.suffixes else dataset.named}"
    statements = [*module_statements(env_id, out), *task_statements(scored, origin)]
    bounds = f"load_dataset.action_bounds = {rule!r}          # {MEANT[rule]}"
    subject = f"{data}, in {env_id}. Written by `dqlab new-task`."
    write_text(out, diffusion_ql_gin(subject, out, statements, place, bounds, "", *BUDGET))
    low, high = action_bounds(task)
    return [
        f"{data}: {len(columns):,} rows, {len(found.lengths):,} episodes",
        f"{env_id}: {task.state_dim} observations, {task.action_dim} action(s) in {bounds_text(low, high)}, "
        f"episodes of at most {task.episode_limit:,} steps",
        f"actions of the data: {MEANT[rule]} (load_dataset.action_bounds = '{rule}')",
        f"reference scores: {origin}",
        *(f"note: {text}" for text in notes if BOUNDS_ADVICE not in text),
        f"{out} is written. Next: dqlab train --gin {out}",
    ]


def _rule(columns: Columns, task: Task, given: str) -> str:
    """How the data's actions are meant; a ConfigError where it cannot be told, a DataError where no way fits them."""
    fitting, refusals = [], []
    for rule in [given] if given else ["unit", "env"]:
        try:
            unit_actions(columns, action_rule(task, rule))
            fitting.append(rule)
        except DataError as error:
            refusals.append(error)
    if not fitting:
        raise refusals[-1]
    low, high = action_bounds(task)
    if len(fitting) == 1 or is_unit(low, high):
        return fitting[0]
    said = f"all actions lie in [-1, 1] and within the environment's bounds, {bounds_text(low, high)}"
    ways = "--action-bounds unit (shares of the bounds), or env (the environment's units)"
    raise ConfigError(f"{columns.where}: {said}. Say how they are meant: {ways}.")


def random_returns(task: Task, episodes: int) -> NDArray[np.float64]:
    """Undiscounted returns of episodes of random actions; a ConfigError where the environment gives NaN or infinity."""
    rng = np.random.default_rng(0)
    returns, live = np.zeros(episodes), np.arange(episodes)
    with closing(env_backends.get("gymnasium")(task, "mujoco210")) as environments:
        finite = np.isfinite(environments.reset(list(range(episodes)), [0] * episodes)).all()
        while finite and len(live):
            stepped = environments.step(live.tolist(), rng.uniform(-1.0, 1.0, (len(live), task.action_dim)))
            finite = np.isfinite(np.column_stack([stepped.state, stepped.reward])).all()
            returns[live] += stepped.reward
            live = live[~stepped.over]
    if not finite:
        given = "observations or rewards of random actions are NaN or infinite"
        raise ConfigError(f"{task.name}: {given}. Mend the environment.")
    return returns


def _references(task: Task, returns: NDArray[np.float64], random: NDArray[np.float64]) -> tuple[Task, str]:
    """The task with its reference scores, none where the data are no better than random actions; and a line on them."""
    low = float(random.mean())
    said = f"random actions return {low:.6g} ({len(random)} episodes)"
    if not len(returns):
        return replace(task, scored=False), f"none, for no episode of the data ends; {said}"
    best = float(returns.max())
    said += f"; the data {returns.mean():.6g} in the mean, {best:.6g} at best"
    if not best > low:
        return replace(task, scored=False), f"none, for the data are no better than random actions; {said}"
    return replace(task, min_score=low, max_score=best), f"0 and 100 are random actions and the data's best; {said}"


def diffusion_ql_gin(subject: str, file: Path, statements: Sequence[str], source: str, *more: str) -> str:
    """The text of a gin file that trains Diffusion-QL: what on, statements that choose the task, where the data are."""
    head = f"# Diffusion-QL on {subject}\n#     dqlab train --gin {file.name}\ninclude 'gin/base/diffusion_ql.gin'\n"
    return "\n".join([head, *statements, f"load_dataset.sources = ({source!r},)", *more, ""])


def module_statements(env_id: str, out: Path) -> list[str]:
    """Where the module of MODULE:ID lies, for a gin file that lies elsewhere; nothing where it is installed."""
    name = env_id.partition(":")[0].partition(".")[0] if ":" in env_id else ""
    spec = find_spec(name) if name else None
    if spec is None or not spec.origin:
        return []
    file = Path(spec.origin).resolve()
    folder = file.parents[1] if spec.submodule_search_locations else file.parent
    if folder == out.resolve().parent or {"site-packages", "dist-packages"} & set(file.parts) or name == "dqlab":
        return []
    return [f"import_path.folders = ({str(folder)!r},)"]


def write_plugin(name: str, folder: Path) -> str:
    """Write the package into a new folder, whole or not at all; what to do next.

    Of a distribution `my-lab` the module is `my_lab`, and classes begin with `MyLab`. A ConfigError where there is a
    module or a folder of that name already, or the name is none for a package.
    """
    files, module = list(render_package(name)), name.replace("-", "_")
    if folder.exists():
        raise ConfigError(f"'{folder}' exists already: choose another --out.")
    if importable(module):
        raise ConfigError(f"Python knows a module '{module}' already: choose another name.")
    if not folder.parent.is_dir():
        raise ConfigError(f"There is no folder '{folder.parent}' to write '{folder.name}' into.")
    with new_folder(folder, lambda there: False, "a package") as temporary:
        for path, text in files:
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text)
    return f"{folder} is written. Next: pip install -e {folder} && dqlab check {name}"


def render_package(name: str) -> Iterator[tuple[Path, str]]:
    """Relative path and text of each file of a package; a ConfigError where a package cannot have the name."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ConfigError(f"'{name}' is no name for a package: small letters, digits and single - or _, as in my-lab.")
    words = {"dqlab_plugin": module, "dqlab-plugin": name, "DqlabPlugin": module.title().replace("_", "")}

    def renamed(text: str) -> str:
        return re.sub("|".join(words), lambda match: words[match[0]], text)

    installed, checkout = Path(__file__).parent / "scaffold_templates", PACKAGE.parent / "examples" / "dqlab-plugin"
    root = installed if installed.is_dir() else checkout
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        made = any(part in ("build", "dist") or part.startswith(".") for part in relative.parts)  # by installing it
        if path.suffix in (".py", ".toml", ".md", ".gin") and not made:
            yield Path(renamed(str(relative))), renamed(path.read_text())
