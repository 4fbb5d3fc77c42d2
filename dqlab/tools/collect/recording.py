"""What happens in an environment, as rows of a dataset; a behaviour's episodes, rolled out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dqlab.errors import RunError
from dqlab.tools.collect.episodes import Amount, Rows, behaviour_slug, lengths_of, load_episodes, save_episodes

if TYPE_CHECKING:
    from dqlab.tools.collect.behaviours import PolicyBehaviour

SHARD_ROWS = 10_000
"""A file of episodes is closed when it has so many rows: what a kill can cost."""
_kept = partial(np.array, dtype=np.float32)  # a copy: environments may use their arrays again


class EpisodeRecorder(gymnasium.Wrapper):  # type: ignore[misc]
    """Keeps the rows of an environment with actions in [-1, 1], and hands over every episode when it ends."""

    def __init__(self, env: Any, finished: Callable[[Rows], None]) -> None:
        super().__init__(env)
        self._finished, self._rows = finished, list[dict[str, Any]]()

    def reset(self, **arguments: Any) -> Any:
        """Begin an episode; one that is under way ends here, as cut."""
        self.cut()
        observation, info = self.env.reset(**arguments)
        self._observation = _kept(observation)
        return observation, info

    def step(self, action: NDArray[np.floating]) -> Any:
        action = _kept(action)  # the environment gets it as it is stored, so that rows can be replayed
        row = {"observations": self._observation, "actions": action.copy()}
        data: Any = getattr(self.env.unwrapped, "data", None)
        if hasattr(data, "qpos") and hasattr(data, "qvel"):  # of MuJoCo: from there the step can be replayed
            row |= {"infos/qpos": np.array(data.qpos, float).ravel(), "infos/qvel": np.array(data.qvel, float).ravel()}
        given = self.env.step(action)
        observation, reward, terminated, truncated, info = given
        self._observation = _kept(observation)
        row |= {f"infos/{name}": value for name, value in info.get("recorded", {}).items()}
        row |= {"rewards": np.float32(reward), "next_observations": self._observation}
        self._rows.append(row | {"terminals": bool(terminated), "timeouts": False})
        if terminated or truncated:
            self.cut()
        return given

    def cut(self) -> None:
        """Hand over the episode that is under way, if any: as cut, unless it has ended by itself."""
        if self._rows:
            rows, self._rows = self._rows, []
            rows[-1]["timeouts"] = not rows[-1]["terminals"]
            self._finished({name: np.asarray([row[name] for row in rows]) for name in rows[0]})


def roll_out(behaviour: PolicyBehaviour, amount: Amount, key: str) -> list[Rows]:
    """At least so many episodes of a behaviour: those that are kept already, and as many more as are missing."""
    context = behaviour.context
    folder = context.folder / "episodes" / f"{behaviour_slug(key)}-{behaviour.folder}"
    episodes: list[Rows] = []
    while (path := folder / f"from-{len(episodes):08d}.npz").exists():
        episodes += load_episodes(path)
    wanted = f"{amount.episodes:,} episodes" if amount.episodes else f"{amount.transitions:,} transitions"
    with closing(played_episodes(behaviour, key, len(episodes))) as played:
        while amount.exceeds(episodes):
            shard: list[Rows] = []
            while sum(lengths_of(shard)) < SHARD_ROWS and amount.exceeds([*episodes, *shard]):
                shard += next(played)
            save_episodes(folder / f"from-{len(episodes):08d}.npz", shard)
            episodes += shard
            done = f"{len(episodes):,} episodes, {sum(lengths_of(episodes)):,} transitions"
            context.log(f"{key}: {done} ({wanted} wanted)")
    return episodes


def played_episodes(behaviour: PolicyBehaviour, key: str, first: int) -> Generator[list[Rows], None, None]:
    """Episodes first, first + 1, ..., as many at a time as the behaviour acts in together; without end."""
    with ExitStack() as opened:
        envs = [opened.enter_context(closing(behaviour.make_env())) for _ in range(behaviour.rows)]
        for number in count(first, len(envs)):
            yield _play(behaviour, envs, key, number)


def _play(behaviour: PolicyBehaviour, envs: list[Any], key: str, first: int) -> list[Rows]:
    """One episode in each environment, stepped together."""
    recorded: dict[int, Rows] = {}
    recorders = [EpisodeRecorder(env, partial(recorded.__setitem__, number)) for number, env in enumerate(envs)]
    keyed = [behaviour.context.seed, zlib.crc32(key.encode())]
    seeds = [np.random.SeedSequence([*keyed, first + number]).generate_state(2) for number in range(len(envs))]
    act = behaviour.begin(int(seeds[0][1]))  # an environment's seed, and that of the behaviour's noise
    pairs = zip(recorders, seeds, strict=True)
    observations = np.stack([recorder.reset(seed=int(start))[0] for recorder, (start, _) in pairs])
    while len(recorded) < len(envs):
        actions = act(observations)
        if not np.isfinite(actions).all():
            raise RunError(f"The behaviour '{key}' gives actions that are not finite.")
        for number, recorder in enumerate(recorders):
            if number not in recorded:
                observations[number] = recorder.step(np.clip(actions[number], -1.0, 1.0))[0]
    return [recorded[number] for number in range(len(envs))]
