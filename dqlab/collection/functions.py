"""Python functions as behaviours."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.collection.behaviours import Act, Acting, behaviours
from dqlab.errors import ConfigError, RunError


@behaviours.register("python", source="a function of yours")
class PythonFunction(Acting):
    """A function of yours, `python:MODULE:FUNCTION`: `(observation (S,), generator) -> action (A,)` in [-1, 1].

    The generator is a `numpy.random.Generator`, the only place from which it may draw.
    """

    def prepare(self) -> None:
        """Import it."""
        module, _, name = self.argument.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"'python:{self.argument}' cannot be imported ({error}). Write python:MODULE:FUNCTION; the module must "
                "be installed, or on PYTHONPATH."
            ) from error
        if not callable(function):
            raise ConfigError(f"'python:{self.argument}' is no function.")
        self._function: Callable[..., Any] = function

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"the function {self.argument}"

    def identity(self) -> str:
        """Its name and its module's text: a changed one means other episodes."""
        try:
            text = inspect.getsource(inspect.getmodule(self._function) or self._function)
        except (OSError, TypeError):
            text = ""
        return f"python {self.argument} {hashlib.sha256(text.encode()).hexdigest()}"

    def begin(self, seeds: Sequence[int]) -> Act:
        """One call for each observation."""
        generators, width = [np.random.default_rng(seed) for seed in seeds], self.stage.task.action_dim

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            pairs = zip(observations, generators, strict=True)
            actions = [np.asarray(self._function(*pair), dtype=np.float64) for pair in pairs]
            if any(action.shape != (width,) for action in actions):
                raise RunError(f"'python:{self.argument}' gives an action of shape {actions[0].shape}, not ({width},).")
            return np.stack(actions)

        return act
