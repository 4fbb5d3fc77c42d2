"""Behaviours that stand on PPO's ladder: its levels, its checkpoints, and its experience."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dqlab.collection.amounts import Amount
from dqlab.collection.behaviours import Act, Acting, Behaviour, Stage, behaviours
from dqlab.collection.saved import GaussianMLP
from dqlab.collection.shards import Piece, lengths_of, pieces_of
from dqlab.collection.training import experience_of
from dqlab.errors import ConfigError
from dqlab.files import sha256_of


class PPOPolicy(Acting):
    """A checkpoint, acting with its own noise."""

    trains = True
    path: Path

    def prepare(self) -> None:
        """Load it."""
        self.path = self.choose()
        self._policy = GaussianMLP(self.path)

    @abstractmethod
    def choose(self) -> Path:
        """Which checkpoint."""

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"PPO checkpoint {self.path.stem}, stochastic"

    def identity(self) -> str:
        """The file's digest."""
        return sha256_of(self.path)

    def begin(self, seeds: Sequence[int]) -> Act:
        """A generator for each episode's noise."""
        policy = self._policy
        generators = [np.random.default_rng(seed) for seed in seeds]

        def act(observations: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            noise = np.stack([generator.standard_normal(len(policy.std)) for generator in generators])
            return policy.mean(observations) + policy.std * noise

        return act


class Fixed(PPOPolicy):
    """A checkpoint that is being ranked."""

    def __init__(self, path: Path, stage: Stage) -> None:
        super().__init__("", stage)
        self._chosen = path
        self.prepare()

    def choose(self) -> Path:
        """The one that was given."""
        return self._chosen


@behaviours.register("medium", source="D4RL (Fu et al. 2020), `medium` sets; PPO in place of SAC")
class Medium(PPOPolicy):
    """PPO's checkpoint whose score is nearest the middle of Collection.medium_scores."""

    def choose(self) -> Path:
        """By score."""
        return self.stage.ladder.pick("medium")


@behaviours.register("expert", source="D4RL (Fu et al. 2020), `expert` sets; PPO in place of SAC")
class Expert(PPOPolicy):
    """PPO's best checkpoint within Collection.expert_scores."""

    def choose(self) -> Path:
        """By score."""
        return self.stage.ladder.pick("expert")


@behaviours.register("ppo", source="Schulman et al. 2017 (PPO); stable-baselines3")
class Checkpoint(PPOPolicy):
    """PPO's checkpoint after so many steps, `ppo:STEPS`: the nearest one, the last one without an argument."""

    def __init__(self, argument: str, stage: Stage) -> None:
        super().__init__(argument, stage)
        if not re.fullmatch(r"[\d_]*", argument):
            raise ConfigError(f"'ppo:{argument}' names no number of steps. Write ppo:500000, say.")

    def choose(self) -> Path:
        """By steps."""
        paths, targets = self.stage.ladder.checkpoints, self.stage.ladder.training.targets
        wanted = int(self.argument.replace("_", "")) if self.argument else targets[-1]
        return min(zip(paths, targets, strict=True), key=lambda pair: abs(pair[1] - wanted))[0]


@behaviours.register("replay", source="D4RL (Fu et al. 2020), `medium-replay` and `full-replay` sets; PPO for SAC")
class Replay(Behaviour):
    """All that PPO experienced: `replay` until medium, `replay:expert`, `replay:full` for all of training."""

    trains = True
    records = True

    def __init__(self, argument: str, stage: Stage) -> None:
        super().__init__(argument, stage)
        ladder = stage.ladder
        last: dict[str, Callable[[], Path]] = {level: partial(ladder.pick, level) for level in ladder.levels}
        last["full"] = lambda: ladder.checkpoints[-1]
        until = argument or "medium"
        if until not in last:
            raise ConfigError(f"'replay:{until}' is no level. Known: {', '.join(sorted(last))}.")
        self._choose = last[until]

    def prepare(self) -> None:
        """See until when."""
        self._last = self._choose()

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"all that PPO experienced until its checkpoint {self._last.stem}"

    def gather(self, amount: Amount, key: str) -> tuple[Piece, ...]:
        """Episodes spread evenly over training, in its order."""
        paths = [experience_of(path) for path in self.stage.ladder.checkpoints]
        paths = paths[: paths.index(experience_of(self._last)) + 1]
        lengths = [lengths_of(path) for path in paths]
        every = [int(length) for each in lengths for length in each]
        chosen = np.array(amount.thinned(every, f"'{key}'"))
        limit = amount.transitions or sum(every)
        pieces, first = [], 0
        for path, each in zip(paths, lengths, strict=True):
            own = chosen[(chosen >= first) & (chosen < first + len(each))] - first
            piece = pieces_of(path, own.tolist(), limit)
            limit, first = limit - len(piece.rows), first + len(each)
            pieces += [piece] if len(piece.rows) else []
        return tuple(pieces)
