"""dqlab: reproduce, ablate and extend Diffusion-QL.

The commands are functions, too (docs/python.md): `dqlab.train('quickstart').plot()`. What they need, PyTorch above all,
is imported when the first of them is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqlab.api import Ablation, LoadedPolicy, Run, ablate, compare, evaluate, list_runs, load_policy, train

__version__ = "0.1.0"


def lazy_names(package: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported, each from its file in it, when they are asked for."""

    def find(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{files[name]}"), name)

    return find


__all__ = ["Ablation", "LoadedPolicy", "Run", "ablate", "compare", "evaluate", "list_runs", "load_policy", "train"]
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "api"))


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
