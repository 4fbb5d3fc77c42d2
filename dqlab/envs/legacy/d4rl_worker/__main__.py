"""One JSON object a line: requests from standard input, answers to standard output (docs/legacy.md)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

PROTOCOL = 1


class Service:
    """What can be asked for; each method is a request of its name, its arguments are the request's fields."""

    def __init__(self) -> None:
        self.copies: list[Any] = []
        self.made: Any = None

    def make(self, task: str, count: int, noise: bool = True) -> dict[str, Any]:
        """Have `count` environments of a task."""
        from .environments import Copy

        if (task, noise) != self.made:
            self.copies, self.made = [], (task, noise)
        while len(self.copies) < count:
            self.copies.append(Copy(task, noise))
        env = self.copies[0].env
        sizes = {"state_dim": env.observation_space.shape[0], "action_dim": env.action_space.shape[0]}
        return {**sizes, "episode_limit": env.spec.max_episode_steps}

    def reset(self, seeds: list[int], groups: list[int]) -> dict[str, Any]:
        """Begin episodes in environments 0, 1, ..."""
        pairs = enumerate(zip(seeds, groups))
        return {"observations": [self.copies[number].reset(seed, group) for number, (seed, group) in pairs]}

    def step(self, which: list[int], actions: list[list[float]]) -> dict[str, Any]:
        """Observation, reward and ends of each environment."""
        columns = zip(*[self.copies[number].step(action) for number, action in zip(which, actions)])
        return dict(zip(("observations", "rewards", "terminated", "over"), map(list, columns)))

    def get_state(self, which: list[int]) -> dict[str, Any]:
        """All that decides what follows."""
        return {"states": [self.copies[number].state() for number in which]}

    def set_state(self, which: list[int], states: list[dict[str, Any]]) -> dict[str, Any]:
        """Put some environments into states; their observations. The episode's step count goes on."""
        return {"observations": [self.copies[number].set_state(state) for number, state in zip(which, states)]}


def answer(service: Service, line: str) -> dict[str, Any]:
    """What a line of input is answered with; errors are answers too."""
    try:
        request = json.loads(line)
        return {"ok": True, **getattr(service, request.pop("do"))(**request)}
    except Exception as error:  # whatever D4RL raises is the caller's to hear
        return {"ok": False, "kind": type(error).__name__, "error": str(error)}


def main() -> int:
    """Serve until the input closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # D4RL prints
    try:
        from .environments import import_d4rl, versions

        import_d4rl()
        greeting = {"ok": True, "protocol": PROTOCOL, "versions": versions()}
    except Exception as error:
        greeting = {"ok": False, "protocol": PROTOCOL, "kind": type(error).__name__, "error": str(error)}
    print(json.dumps(greeting), file=out, flush=True)
    service = Service()
    for line in sys.stdin if greeting["ok"] else ():
        print(json.dumps(answer(service, line)), file=out, flush=True)
    return 0 if greeting["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
