"""dqlab's own runs as behaviours: what has been trained offline collects the next set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.collection.behaviours import Act, Acting, Stage, behaviours
from dqlab.errors import ConfigError
from dqlab.fields import check_counts
from dqlab.files import expanded, sha256_of
from dqlab.gin_registry import OtherConfiguration
from dqlab.run_folder import RunFolder


@behaviours.register("run", source="dqlab, `dqlab train`")
class DqlabRun(Acting):
    """A run of dqlab's, `run:PATH`, acting as in its evaluations, with noise of its own.

    Args:
        argument: the run's folder.
        stage: where it acts.
        checkpoint: `last`, `best`, `offline`, or a .safetensors file.
        seed: which replica; the first one by default (-1).
        rows: observations that are computed together.
    """

    def __init__(self, argument: str, stage: Stage, checkpoint: str = "last", seed: int = -1, rows: int = 10) -> None:
        super().__init__(argument, stage)
        check_counts("DqlabRun", rows=rows)
        check_counts("DqlabRun", -1, seed=seed)
        self._folder, self._which, self._seed, self.rows = (
            RunFolder(expanded(argument)),
            checkpoint,
            seed,
            rows,
        )

    def prepare(self) -> None:
        """Load its configuration, which is its own, and its weights."""
        from dqlab import configuration
        from dqlab.experiment import Experiment
        from dqlab.replica import Replica
        from dqlab.report import checkpoint_files
        from dqlab.training import checkpoint
        from dqlab.training.execution import Eager
        from dqlab.training.sampler_core import SamplerCore

        facts = self._folder.facts()
        self._file = checkpoint_files(self._folder, None if self._seed < 0 else self._seed, self._which)[0]
        weights, record = checkpoint.load_weights(self._file)
        with self._own:
            configuration.load_stored(self._folder.config)
            experiment = Experiment()
            self._check(experiment)
            known = {replica.name: replica for replica in self._folder.replicas()}
            pack = experiment.pack([known.get(record.get("replica", ""), Replica.plain(record["seed"]))])
            pack.load(0, weights)
            self._core = SamplerCore(pack, self.rows, Eager())
        self._task, self._step = facts["task"], record["step"]
        data = facts["data"]
        self._mean, self._std = np.array(data.get("state_mean", ())), np.array(data.get("state_std", ()))

    @cached_property
    def _own(self) -> Any:
        return OtherConfiguration()

    def _check(self, experiment: Any) -> None:
        ours, task = experiment.dims, self.stage.task
        if (ours.state, ours.action) != (task.state_dim, task.action_dim):
            raise ConfigError(
                f"The run in {self._folder.path} is of {experiment.task} (state {ours.state}, action {ours.action}); "
                f"{task.robot} has state {task.state_dim}, action {task.action_dim}."
            )

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"dqlab run {self._folder.path.name} on {self._task}, {self._file.stem}, acting as in evaluation"

    def identity(self) -> str:
        """Digests of weights and configuration."""
        config = hashlib.sha256(self._folder.config.read_bytes()).hexdigest()
        return f"run {sha256_of(self._file)} {config} {self.rows}"

    def begin(self, seeds: Sequence[int]) -> Act:
        """Rows in blocks of a fixed size, each with a stream of noise of its own."""
        starts = range(0, len(seeds), self.rows)
        streams = [self._core.noise_stream(f"collection {seeds[start]}") for start in starts]
        time = iter(range(10**12))

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            now = next(time)
            seen = (observations - self._mean) / self._std if len(self._mean) else observations
            blocks = [
                self._block(seen[start : start + self.rows], stream.at(now))
                for start, stream in zip(starts, streams, strict=True)
            ]
            return np.concatenate(blocks)

        return act

    def _block(self, states: NDArray[Any], noise: Any) -> NDArray[Any]:
        import torch

        padded = np.resize(states, (self.rows, states.shape[1]))
        with self._own:
            actions = self._core.sample_actions(torch.from_numpy(padded)[None], noise)
        return np.array(actions[0, : len(states)].double().cpu().numpy())
