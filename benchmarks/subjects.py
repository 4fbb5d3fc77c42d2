"""What is measured, made in one place: data, packs, sampling chains, and how many operations they take.

Everything has the sizes of walker2d: states of 17 numbers, actions of 6.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from measuring import Call, wait_for_nothing
from torch import Tensor, nn

from dqlab.algorithms import algorithms
from dqlab.data import Transitions
from dqlab.data.transitions import Provenance
from dqlab.diffusion.sampling import ChainNoise
from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.ensembles import TwinCritic
from dqlab.networks.precision import FULL, Precision
from dqlab.noise import draw_noise
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.training import Pack
from dqlab.training.execution.modes import ExecutionMode, execution_modes
from dqlab.training.execution.program import Program, TensorTree

DIMS = Dims(17, 6)


def devices() -> list[str]:
    """The devices of this machine."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def modes(device: str) -> list[str]:
    """Every execution mode that this machine can run on that device; `auto` only picks one of them."""
    able = [entry for entry in execution_modes if not entry.item().unavailable_reason(torch.device(device))]
    return [entry.name for entry in able if entry.name != "auto"]


def new_mode(name: str) -> ExecutionMode:
    """A mode of its own, so that its compiled code and its memory go when it goes."""
    return execution_modes.get(name)()


def synchronizer(device: str) -> Call:
    """What waits for the device."""
    return torch.cuda.synchronize if device.startswith("cuda") else wait_for_nothing


@cache
def made_fields(rows: int) -> dict[str, np.ndarray]:
    """Random transitions, by field; the same ones at every call."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "state": normal(rows, DIMS.state),
        "action": np.tanh(normal(rows, DIMS.action)),
        "reward": normal(rows),
        "next_state": normal(rows, DIMS.state),
        "terminal": (rng.random(rows) < 0.001).astype(np.float32),
    }


def as_transitions(fields: dict[str, np.ndarray]) -> Transitions:
    """The same, as dqlab holds them; the memory is shared."""
    rows = len(fields["reward"])
    nowhere = Provenance("made", "", "", False, rows, 1, rows, 0.0, 0.0, 0.0, 0.0)
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    return Transitions(**tensors, provenance=nowhere, next_action=tensors["action"].roll(-1, 0))


def new_pack(
    replicas: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    algorithm: str = "diffusion_ql",
    first_seed: int = 0,
    precision: Precision = FULL,
) -> Pack:
    """Freshly initialised replicas of an algorithm with its default hyper-parameters, the paper's (N = 5)."""
    seeds = range(first_seed, first_seed + replicas)
    same = [algorithms.get(algorithm)()] * replicas
    return Pack(same, DIMS, seeds, dtype=dtype, device=device, precision=precision)


class Chain:
    """Actions for B states by the policy's sampler, run by an execution mode; a call draws the noise, too."""

    def __init__(self, policy: DiffusionPolicy, batch: int, mode: ExecutionMode, device: str) -> None:
        self._policy = policy
        network = policy.build(DIMS)
        row = Layout.of(network).flatten(dict(network.named_parameters())).detach().to(device)
        self._layout = Layout.of(network).to(torch.device(device))
        self._noise = draw_noise(policy.sample_noise(DIMS, batch), torch.Generator(device), torch.float32)
        state = torch.randn(batch, DIMS.state, device=device)
        tensors: TensorTree = {"row": row, "state": state, "noise": self._noise}
        self._sample(tensors)  # constants that are made at first use exist from here on
        self._run = mode(Program(self._sample, tensors))

    def __call__(self) -> Tensor:
        for values in self._noise.values():
            values.normal_()
        actions: Tensor = self._run()
        return actions

    def _sample(self, tensors: TensorTree) -> Tensor:
        with torch.no_grad():
            return self._policy.sample(self._layout.bind(tensors["row"]), DIMS, tensors["state"], tensors["noise"])


def products(network: nn.Module) -> int:
    """Multiplications with weights that one row takes on its way through all linear layers."""
    return sum(layer.in_features * layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear))


def denoiser_calls(policy: DiffusionPolicy) -> int:
    """How often the sampler calls the denoiser: N times for ancestral sampling, more or less for others."""
    calls = []

    def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
        calls.append(t)
        return torch.zeros_like(x)

    sampler, start = policy.resolved_sampler, torch.zeros(1, DIMS.action)
    noise = ChainNoise(start, start.new_zeros(sampler.draws(policy.process), *start.shape))
    sampler(denoise, policy.process, torch.zeros(1, DIMS.state), noise, DIMS.max_action)
    return len(calls)


def chain_flops(policy: DiffusionPolicy, batch: int) -> float:
    """Operations of a straightforward chain: every denoiser call in full for every row, two a multiplication."""
    return 2.0 * batch * denoiser_calls(policy) * products(policy.build(DIMS))


def update_flops(batch: int, n_timesteps: int = 5) -> float:
    """Operations of one straightforward update of one replica of Diffusion-QL: two a multiplication, products only.

    With D the denoiser's multiplications for a row and C both critics', an update takes

    - the critics' target: a chain (N D) and the target critics (C);
    - the critics' loss: forward (C), gradients of weights (C), gradients of inputs but for the first layers';
    - the denoising loss and the actor's chain, 1 + N denoiser calls: forward (D), gradients of weights (D) and of
      inputs (D), without the states' columns, which need none;
    - the critics on the actor's actions: forward (C) and gradients of inputs, again without the states' columns.
    """
    hidden = 256
    denoiser, critics = products(MLPDenoiser(DIMS.state, DIMS.action)), products(TwinCritic(DIMS.state, DIMS.action))
    of_states, of_actions = DIMS.state * hidden, DIMS.action * hidden
    target = n_timesteps * denoiser + critics
    critic_loss = 3 * critics - 2 * (of_states + of_actions)
    actor_loss = (1 + n_timesteps) * (3 * denoiser - of_states) + 2 * critics - 2 * of_states
    return 2.0 * batch * (target + critic_loss + actor_loss)
