"""`dqlab new-plugin`: a package with components of five kinds, examples/dqlab-plugin by another name."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dqlab.errors import PACKAGE, ConfigError

TEMPLATES = (Path(__file__).parent / "scaffold_templates", PACKAGE.parent / "examples" / "dqlab-plugin")
"""Where the example package lies: in an installed dqlab, and in a checkout."""
SUFFIXES = {".py", ".toml", ".md", ".gin"}
MADE = {"build", "dist", "__pycache__"}
"""Folders that installing or testing the example leaves in it."""


def write_plugin(name: str, folder: Path) -> str:
    """Write the package, whole or not at all.

    Args:
        name: of the distribution, such as `my-lab`; its module is then `my_lab`, its classes begin with `MyLab`.
        folder: to be made.

    Returns:
        What to do next.

    Raises:
        ConfigError: the name cannot be a package's, or is that of a module that Python knows; or the folder exists.
    """
    module = _module(name)
    if folder.exists():
        raise ConfigError(f"'{folder}' exists already: choose another --out.")
    known = find_spec(module)
    if known and known.origin:  # a folder of that name, no module, has no origin
        raise ConfigError(f"Python knows a module '{module}' already: choose another name.")
    if not folder.parent.is_dir():
        raise ConfigError(f"There is no folder '{folder.parent}' to write '{folder.name}' into.")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for path, text in render_package(name):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{folder} is written. Next: pip install -e {folder} && dqlab check {name}"


def _module(name: str) -> str:
    """The module of a distribution of that name.

    Raises:
        ConfigError: it is no name for a package.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ConfigError(f"'{name}' is no name for a package: small letters, digits and single - or _, as in my-lab.")
    return module


def render_package(name: str) -> Iterator[tuple[Path, str]]:
    """The files of a package of that name: relative path and text of each."""
    module = _module(name)
    words = {"dqlab_plugin": module, "dqlab-plugin": name, "DqlabPlugin": module.title().replace("_", "")}

    def renamed(text: str) -> str:
        return re.sub("|".join(words), lambda match: words[match[0]], text)

    root = next(folder for folder in TEMPLATES if folder.is_dir())
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        made = any(part in MADE or part.endswith(".egg-info") or part.startswith(".") for part in relative.parts)
        if path.suffix in SUFFIXES and not made:
            yield Path(renamed(str(relative))), renamed(path.read_text())
