"""Parts of algorithms against recordings of other libraries and codes: samplers, kernels, truncated quantiles."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from recorded_updates import arrays
from torch import Tensor

from dqlab.algorithms.mmd_ql import gaussian_kernel, laplacian, mmd
from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DDPM, ChainNoise, DPMSolverPP, Heun, Sampler
from dqlab.diffusion.schedules import build_betas
from dqlab.networks.ensembles import TQC

S, A = 5, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def model(data: dict[str, Any], process: Process) -> Callable[[Tensor, int, Tensor], Tensor]:
    """The recordings' eps as a data prediction."""
    matrix, b = torch.as_tensor(data["W"]), torch.as_tensor(data["b"])

    def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
        return process.start_from(x, t, torch.tanh(x @ matrix + b + 0.03 * t) + 0.2 * x)

    return denoise


def sampler_of(label: str) -> tuple[Sampler, Process]:
    """The sampler that a label names, and the process: `DPM-Solver++ 3M vp N=5 K=5 log_snr`."""
    schedule, n = re.search(r" (vp|linear|cosine) N=(\d+)", label).groups()
    process = Process.from_betas(build_betas(schedule, int(n)))
    steps = int(found[1]) if (found := re.search(r"K=(\d+)", label)) else 0
    if label.startswith(("DDPM", "Heun")):
        return (DDPM if label.startswith("DDPM") else Heun)(steps=steps), process
    if label.startswith("DDIM"):
        return DDIM(eta=float(re.search(r"eta=([\d.]+)", label)[1])), process
    order, stride = re.search(r"\+\+ (\d)M.* (uniform|log_snr)$", label).groups()
    return DPMSolverPP(order=int(order), stride=stride, quadratic_weight=0.5, steps=steps), process


def test_samplers_are_those_of_diffusers() -> None:
    data = arrays("here", "samplers_diffusers")
    labels = [label for label in data if " N=" in label and not label.startswith("noise ")]
    assert len(labels) >= 30
    for label in labels:
        sampler, process = sampler_of(label)
        start = torch.as_tensor(data["start"])
        noise = torch.as_tensor(data.get(f"noise {label}", np.empty((0, *start.shape))))
        bound = 1.0 if "clip=True" in label else 1e12
        action = sampler(model(data, process), process, start, ChainNoise(start, noise), bound)
        wanted = torch.as_tensor(data[label])
        assert torch.allclose(action, wanted, **EXACT), f"{label}: {float((action - wanted).abs().max())}"


def test_kernels_are_those_of_bear() -> None:
    data = arrays("here", "mmd_bear")
    x, y = torch.as_tensor(data["x"]), torch.as_tensor(data["y"])
    kernels = {
        "laplacian_20": laplacian,
        "laplacian_10": partial(laplacian, sigma=10.0),
        "gaussian_20": gaussian_kernel,
    }
    for name, kernel in kernels.items():
        assert torch.allclose(mmd(kernel, x, y), torch.as_tensor(data[name]), **EXACT), name


def test_truncated_quantile_critics_are_those_of_sb3() -> None:
    data = {name: torch.as_tensor(value) for name, value in arrays("here", "critics").items()}
    critic = TQC(S, A, hidden_dim=4)
    current, following = (data[name].transpose(0, 1) for name in ("tqc_current", "tqc_next"))
    target = data["tqc_reward"] + 0.99 * (1 - data["tqc_done"]) * critic.backup(following, {})
    assert torch.allclose(target, data["tqc_target"], **EXACT)
    loss = critic.loss(current, target) / critic.n_critics + of_single_weights(current, target)
    assert torch.allclose(loss, data["tqc_loss_sb3_mean"], **EXACT)


def of_single_weights(quantiles: Tensor, target: Tensor) -> Tensor:
    """What it adds to the mean loss that the code computes |tau - 1(u < 0)| in float32, whatever the rest is: 4e-9."""
    count = quantiles.shape[-1]
    levels = ((torch.arange(count).double() + 0.5) / count).unsqueeze(-1)
    u = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    single, double = ((levels.to(dtype) - (u < 0).to(dtype)).abs().double() for dtype in (torch.float32, torch.float64))
    huber = torch.nn.functional.huber_loss(u, torch.zeros_like(u), reduction="none")
    return ((single - double) * huber).mean()
