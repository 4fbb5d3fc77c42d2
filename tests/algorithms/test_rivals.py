"""Every rival against its authors' own code: recorded weights, batches and noise, replayed by what `gin/` chooses.

Then parts of other libraries: samplers of diffusers, kernels of BEAR, truncated quantiles of Stable-Baselines3.

`golden/` and `../shared` hold the recordings (float64, networks 24 wide, S = 5, A = 3, B = 16), in dqlab's names:
`init|NET|PARAMETER`, `final|NET|PARAMETER`, `batch|FIELD`, `noise|NAME`, `loss|NAME`. In `golden/` some are shortened:
the first 4 or 6 updates without final parameters (bcq, iql, td3_bc); or of each final parameter its sum, its norm and
its first 16 entries. A loss that the code did not compute at an update is nan.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PERCEPTRONS, ROOT, SMALL
from recorded_updates import arrays
from torch import Tensor

from dqlab.algorithms import algorithms
from dqlab.algorithms.mmd_ql import gaussian_kernel, laplacian, mmd
from dqlab.config import gin_files
from dqlab.data import Batch
from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DDPM, ChainNoise, DPMSolverPP, Heun, Sampler
from dqlab.diffusion.schedules import build_betas
from dqlab.networks.ensembles import TQC
from dqlab.policies.base import Dims
from dqlab.runs import Experiment
from dqlab.testing import check
from dqlab.training import Pack
from dqlab.training.plan import lr_schedules

S, A = 5, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}
Weights = dict[str, Tensor]
NETWORKS = ("REDQ", *PERCEPTRONS)


@dataclass(frozen=True)
class Case:
    """A recording of updates.

    Attributes:
        gin: which algorithm's file is meant, or the file.
        bindings: the recording's own sizes and, where they differ, settings, joined by "; ".
        depth: of the networks that are perceptrons, where it is not the file's.
        cosine: steps of the learning rate's cosine, if there is one, from a network's first update on.
        critics: what the recorded loss of the critics is divided by: 1 for a sum over them.
    """

    gin: str
    bindings: str = ""
    depth: int = 0
    cosine: int = 0
    critics: int = 1


QSM_DIFFUSION = "MLPDenoiser.time_dim = 8; DiffusionPolicy.n_timesteps = 3; DiffusionPolicy.sampler = 'ddpm_large'; "
CASES = {
    "bdpo": Case(
        "bdpo",
        "MLPDenoiser.time_dim = 8; ChainValueNetwork.time_dim = 8; LowerBoundEnsemble.n_critics = 2; "
        "DiffusionPolicy.n_timesteps = 3; BDPO.candidates = 2; "
        "BDPO.pretrain_steps = 2; BDPO.warmup_steps = 2; BDPO.actor_every = 3",
        depth=2,
        cosine=20,
        critics=2,
    ),
    "dac": Case(
        "dac",
        "LowerBoundEnsemble.n_critics = 3; MLPDenoiser.time_dim = 8; DiffusionPolicy.n_timesteps = 3; "
        "DAC.backup_candidates = 2; DAC.ema_start = 2; DAC.threshold = 2.0",
        depth=2,
        cosine=20,
        critics=3,
    ),
    "dtql": Case("dtql", "MLPDenoiser.time_dim = 8; DTQL.pretrain_steps = 3", cosine=20),
    "qam": Case("qam", "LowerBoundEnsemble.n_critics = 3; RectifiedFlowPolicy.n_steps = 4", 2, critics=3),
    "qam_edit": Case("qam_edit", "LowerBoundEnsemble.n_critics = 3; RectifiedFlowPolicy.n_steps = 4", 2, critics=3),
    "qsm": Case(
        "qsm", QSM_DIFFUSION + "MLPDenoiser.time_active = True; QSM.alpha = 0.0; QSM.temperature = 0.5", 2, critics=2
    ),
    "qsm_bc": Case(
        "qsm",
        QSM_DIFFUSION + "LowerBoundEnsemble.n_critics = 3; LowerBoundEnsemble.beta = 0.5; "
        "LowerBoundEnsemble.layer_norm = True; LowerBoundEnsemble.norm_after = True; "
        "LowerBoundEnsemble.norm_eps = 1e-6; LowerBoundEnsemble.activation = 'gelu_tanh'; "
        "QSM.critic = 'ensemble_lcb'; QSM.alpha = 10.0; QSM.temperature = 0.25; QSM.raw_score = True; "
        "QSM.joint_update = True; QSM.joint_grad_norm = True; QSM.grad_norm = 1.0",
        depth=2,
        critics=3,
    ),
    "td3_bc": Case("td3_bc"),
    "iql": Case("iql", cosine=40),
    "bcq": Case("cvae_ql"),
    "fql": Case("fql", "FQL.alpha = 10.0; FQL.normalise_q = False", 3, critics=2),
    "edp_td3": Case(
        "edp",
        "DiffusionPolicy.n_timesteps = 5; DiffusionPolicy.schedule = 'vp'; EDP.ema_start = 0; EDP.grad_norm = 0.0",
    ),
    "idql": Case("idql", "LNResnet.n_blocks = 2; LNResnet.time_dim = 16; LNResnet.dropout = 0.0", cosine=40),
    "rebrac": Case("rebrac"),
    "edac": Case("edac", "MinimumEnsemble.n_critics = 4"),
    "ifql": Case("ifql", depth=3),
    "fql_min": Case("ogbench/fql", "FQL.critic = 'redq'; FQL.alpha = 10.0; FQL.normalise_q = True", 3, critics=2),
    "best_of_n": Case("best_of_n", depth=3, critics=2),
    "qc": Case("qc", "Experiment.action_chunk = 3; Argmax.n_candidates = 4", 3, critics=2),
    "qc_fql": Case("qc_fql", "Experiment.action_chunk = 3; FQL.alpha = 100.0; FQL.normalise_q = False", 3, critics=2),
    "meanflow_ql": Case("meanflow_ql", "MLPDenoiser.time_dim = 1; MeanFlowQL.alpha = 10.0", 3, critics=2),
    "ogbench_rebrac": Case("ogbench/rebrac", "ReBRAC.actor_bc = 0.03; ReBRAC.critic_bc = 0.02", 3, critics=2),
    "sac_n": Case("sac_n", "MinimumEnsemble.n_critics = 4"),
}
SHORTENED = ("td3_bc", "iql", "bcq", "idql")
"""Those whose whole recordings lie in `../shared`; the others lie in `golden/` as recorded."""


def weights(data: dict[str, Any], prefix: str) -> dict[str, Weights]:
    found: dict[str, Weights] = {}
    for key, value in data.items():
        if key.startswith(f"{prefix}|"):
            _, network, name = key.split("|")
            found.setdefault(network, {})[name] = torch.as_tensor(value)
    return found


def figures(value: Tensor) -> Tensor:
    """Sum, norm and first 16 entries."""
    return torch.cat([value.sum()[None], value.norm()[None], value.flatten()[:16]])


def packed(case: Case, replicas: int = 1) -> Pack:
    file = case.gin if "/" in case.gin else f"{case.gin}_walker2d"
    own = [f"{network}.hidden_dim = 24" for network in ("LNResnet", *NETWORKS)]
    own += [f"{network}.depth = {case.depth}" for network in NETWORKS if case.depth]
    gin_files.load_gin([f"gin/{file}.gin"], [*own, *filter(None, case.bindings.split("; "))])
    experiment = Experiment()
    algorithm, chunk = experiment.resolved_algorithm, experiment.action_chunk
    factor = partial(lr_schedules.get("cosine"), steps=case.cosine, eval_every=1) if case.cosine else None
    more: dict[str, Any] = {"learning_rate_factor": lambda step, first, _: factor(step - first)} if factor else {}
    return Pack(
        [algorithm] * replicas, Dims(S, chunk * A, chunk=chunk), list(range(replicas)), dtype=torch.float64, **more
    )


def step_of(data: dict[str, Any], kind: str, step: int) -> dict[str, Tensor]:
    prefix = f"{kind}|"
    return {k.removeprefix(prefix): torch.as_tensor(v[step])[None] for k, v in data.items() if k.startswith(prefix)}


def replay(case: Case, data: dict[str, Any], replicas: int = 1) -> Pack:
    """All updates of a recording, every replica's the same; the losses are compared on the way."""
    pack = packed(case, replicas)
    for replica in range(replicas):
        pack.load(replica, weights(data, "init"))
    losses = {key.removeprefix("loss|"): value for key, value in data.items() if key.startswith("loss|")}
    losses["critic/loss"] = case.critics * losses["critic/loss"]
    for step in range(len(data["batch|state"])):
        batch, noise = step_of(data, "batch", step), step_of(data, "noise", step)
        spread = [{k: v.expand(replicas, *v.shape[1:]) for k, v in values.items()} for values in (batch, noise)]
        info = pack.update(Batch(**spread[0]), spread[1])
        for name, recorded in losses.items():
            if name in info and np.isfinite(recorded[step]):
                assert torch.allclose(info[name], torch.as_tensor(recorded[step]), **EXACT), f"{name} of update {step}"
    return pack


@pytest.mark.parametrize(
    ("name", "place"), [*product(CASES, ["here"]), *product(SHORTENED, ["shared"])], ids=lambda part: part
)
def test_updates_are_those_of_the_authors_code(name: str, place: str) -> None:
    data = arrays(place, name)
    pack = replay(CASES[name], data)
    reached = pack.weights(0)
    final = weights(data, "final")
    assert set(final) == set(reached) or (place == "here" and not final)
    for network, values in final.items():
        for key, wanted in values.items():
            found = figures(reached[network][key]) if place == "here" else reached[network][key]
            assert torch.allclose(found, wanted, **EXACT), f"{network}.{key}: {float((found - wanted).abs().max())}"
    if "act|action" in data:
        given = {key.removeprefix("act|"): torch.as_tensor(value)[None] for key, value in data.items() if "act|" in key}
        noise = {key.removeprefix("noise|"): value for key, value in given.items() if key.startswith("noise|")}
        assert torch.allclose(pack.act(given["state"], noise), given["action"], **EXACT), "acting"


def test_ogbenchs_file_of_fql_chooses_the_same_update() -> None:
    replay(replace(CASES["fql"], gin="ogbench/fql"), arrays("here", "fql"))


@pytest.mark.parametrize("name", ["bcq", "dac", "dtql", "edp_td3", "fql", "idql", "ogbench_rebrac", "qam_edit"])
def test_they_are_the_same_packed(name: str) -> None:
    """The losses of two replicas under `vmap` are those recorded."""
    replay(CASES[name], arrays("here", name), replicas=2)


@pytest.mark.parametrize("name", ["fql", "idql", "mmd_ql"])
def test_what_the_files_choose_conforms(name: str) -> None:
    """The whole suite of an algorithm, packed, compiled and resumed, with the options of its gin file."""
    gin_files.load_gin([f"gin/{name}_walker2d.gin"], SMALL)
    check("algorithm", name)


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_says_how_it_differs_from_its_authors_code(name: str) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text()
    assert re.search(
        rf"^\*\*{name}\*\*( \([A-Z]+\))? (differs from the authors' code|has no authors' code)", text, re.MULTILINE
    )


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
