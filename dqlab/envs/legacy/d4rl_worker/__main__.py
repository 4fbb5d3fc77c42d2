"""One JSON object a line: requests from standard input, answers to standard output (docs/legacy.md)."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

PROTOCOL = 1


class BadRequestError(Exception):
    """A request that means nothing: told, and the next one is read."""


class Service:
    """What can be asked for; each method is a request of its name, its arguments are the request's fields."""

    def __init__(self) -> None:
        self.copies: list[Any] = []
        self.task = ""
        self.quiet = False

    def make(self, task: str, count: int, noise: bool = True) -> dict[str, Any]:
        """Have `count` environments of a task."""
        from .copies import Copy

        if (task, not noise) != (self.task, self.quiet):
            self.copies, self.task, self.quiet = [], task, not noise
        while len(self.copies) < count:
            self.copies.append(Copy(task))
            if self.quiet:
                self.copies[-1].silence()
        env = self.copies[0].env if self.copies else None
        sizes = {"state_dim": env.observation_space.shape[0], "action_dim": env.action_space.shape[0]} if env else {}
        return {**sizes, "episode_limit": env.spec.max_episode_steps} if env else {}

    def reset(self, seeds: list[int], groups: list[int]) -> dict[str, Any]:
        """Begin episodes in environments 0, 1, ..."""
        same_length(seeds=seeds, groups=groups)
        pairs = zip(self._chosen(list(range(len(seeds)))), seeds, groups)
        return {"observations": [copy.reset(int(seed), int(group)) for copy, seed, group in pairs]}

    def step(self, which: list[int], actions: list[list[float]]) -> dict[str, Any]:
        import numpy as np

        same_length(which=which, actions=actions)
        chosen = self._chosen(which)
        batch = np.array(actions, dtype=float)
        if len(chosen) and (batch.shape[1:] != chosen[0].env.action_space.shape or not np.isfinite(batch).all()):
            raise BadRequestError(f"an action is not {chosen[0].env.action_space.shape[0]} finite numbers")
        columns = zip(*[copy.step(action) for copy, action in zip(chosen, batch)])
        names = ("observations", "rewards", "terminated", "over")
        return dict(zip(names, map(list, columns))) if chosen else {name: [] for name in names}

    def get_state(self, which: list[int]) -> dict[str, Any]:
        return {"states": [copy.state() for copy in self._chosen(which)]}

    def set_state(self, which: list[int], states: list[dict[str, Any]]) -> dict[str, Any]:
        """Put some environments into states; their observations. The episode's step count goes on."""
        same_length(which=which, states=states)
        pairs = zip(self._chosen(which), states)
        return {"observations": [copy.set_state(state) for copy, state in pairs]}

    def _chosen(self, which: list[int]) -> list[Any]:
        if not all(isinstance(number, int) and 0 <= number < len(self.copies) for number in which):
            raise BadRequestError(f"there are environments 0 to {len(self.copies) - 1}")
        return [self.copies[number] for number in which]


def same_length(**lists: list[Any]) -> None:
    """Refuse lists that do not belong together."""
    if len({len(values) for values in lists.values()}) > 1:
        raise BadRequestError(f"{' and '.join(lists)} differ in length")


def answer(service: Service, line: str) -> dict[str, Any]:
    """What a line of input is answered with; errors are answers too."""
    number = None
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise BadRequestError("a request is a JSON object")
        number = request.pop("id", None)
        return {"id": number, "ok": True, **method_of(service, request)(**request)}
    except Exception as error:  # whatever D4RL raises is the caller's to hear
        kind = "BadRequest" if isinstance(error, (BadRequestError, json.JSONDecodeError)) else type(error).__name__
        return {"id": number, "ok": False, "kind": kind, "error": str(error) or kind}


def method_of(service: Service, request: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What a request asks for; its other fields must fit."""
    name = request.pop("do", None)
    known = [other for other in vars(Service) if not other.startswith("_")]
    if name not in known:
        raise BadRequestError(f"unknown request {name!r}; there are {', '.join(known)}")
    method: Callable[..., dict[str, Any]] = getattr(service, str(name))
    try:
        inspect.signature(method).bind(**request)
    except TypeError as error:
        raise BadRequestError(f"{name}: {error}") from None
    return method


def write(out: TextIO, message: dict[str, Any]) -> None:
    """One line, at once."""
    out.write(json.dumps(message) + "\n")
    out.flush()


def main() -> int:
    """Serve until the input closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # D4RL prints
    try:
        from .originals import import_d4rl, versions

        import_d4rl()
        write(out, {"ok": True, "protocol": PROTOCOL, "versions": versions()})
    except Exception as error:
        write(out, {"ok": False, "protocol": PROTOCOL, "kind": type(error).__name__, "error": str(error)})
        return 1
    service = Service()
    for line in sys.stdin:
        write(out, answer(service, line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
