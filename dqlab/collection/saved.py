"""A PPO's state in a file of plain arrays, with checksums and without code; and the policy in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.collection.shards import load_arrays, save_arrays
from dqlab.errors import DataError

MOMENTS = ("mean", "var", "count")
CLIP = 10.0
"""Normalised observations are clipped to +-10, as in stable-baselines3's VecNormalize."""


def save(model: Any, path: Path) -> None:
    """Write all that training continues from.

    Raises:
        DataError: the file cannot be written.
    """
    arrays = {f"policy|{name}": value.numpy() for name, value in model.policy.state_dict().items()}
    for number, moments in model.policy.optimizer.state_dict()["state"].items():
        arrays |= {f"adam|{number}|{name}": value.numpy() for name, value in moments.items()}
    normaliser = model.get_vec_normalize_env()
    for which in ("obs_rms", "ret_rms"):
        arrays |= {f"{which}|{name}": np.asarray(getattr(getattr(normaliser, which), name)) for name in MOMENTS}
    arrays["steps"], arrays["updates"] = np.array(model.num_timesteps), np.array(model._n_updates)
    save_arrays(path, arrays)


def restore(model: Any, path: Path) -> None:
    """Put a freshly made model into a saved state.

    Raises:
        DataError: the file is damaged, or of other networks.
    """
    import torch

    arrays = load_arrays(path)
    try:
        model.policy.load_state_dict({name: torch.from_numpy(value) for name, value in _group(arrays, "policy")})
        state: dict[int, dict[str, Any]] = {}
        for name, value in _group(arrays, "adam"):
            number, _, moment = name.partition("|")
            state.setdefault(int(number), {})[moment] = torch.from_numpy(value)
        groups = model.policy.optimizer.state_dict()["param_groups"]
        model.policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
        normaliser = model.get_vec_normalize_env()
        for which in ("obs_rms", "ret_rms"):
            for name, value in _group(arrays, which):
                setattr(getattr(normaliser, which), name, value if value.ndim else float(value))
        model.num_timesteps, model._n_updates = int(arrays["steps"]), int(arrays["updates"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is no state of this training ({error}). Delete it: it is made anew.") from error


def _group(arrays: dict[str, NDArray[Any]], name: str) -> list[tuple[str, NDArray[Any]]]:
    return [(key.partition("|")[2], value) for key, value in arrays.items() if key.startswith(f"{name}|")]


class GaussianMLP:
    """The policy in a file: a Gaussian around a tanh network of the normalised observation, in float64.

    Rows are multiplied one by one, so that each one's result is the same whatever the others are.
    """

    def __init__(self, path: Path) -> None:
        arrays = load_arrays(path)
        try:
            self._mean = arrays["obs_rms|mean"]
            self._std = np.sqrt(arrays["obs_rms|var"] + 1e-8)
            hidden = sorted(
                {name.split(".")[2] for name in arrays if name.startswith("policy|mlp_extractor.policy_net")}
            )
            names = [*(f"mlp_extractor.policy_net.{number}" for number in hidden), "action_net"]
            self._layers = [_layer(arrays, name) for name in names]
            self.std = np.exp(arrays["policy|log_std"].astype(np.float64))
        except KeyError as error:
            raise DataError(f"{path} holds no policy ({error}). Delete it: it is made anew.") from error

    def mean(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        """Means (B, A) for observations (B, S)."""
        x = np.clip((observations - self._mean) / self._std, -CLIP, CLIP)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(_rows(x, weight) + bias)
        weight, bias = self._layers[-1]
        return _rows(x, weight) + bias


def _layer(arrays: dict[str, NDArray[Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias = (arrays[f"policy|{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    return np.ascontiguousarray(weight.T), bias


def _rows(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x[:, None, :] @ weight)[:, 0, :])
