"""The peer in JAX: Diffusion-QL as one jitted function an update, data and random numbers on the device.

Same algorithm, same hyper-parameters, none of dqlab's code, written the way JAX wants it: pure functions of
dictionaries, the chain unrolled, the state donated, and nothing read by the host. Parameters have the names and shapes
of dqlab's, so that both can be given the same; `update` takes its noise as an argument, `train_step` draws it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Params = dict[str, Array]
State = dict[str, Any]

N, ETA, DISCOUNT, TAU, RATE, GRAD_NORM = 5, 1.0, 0.99, 0.005, 3e-4, 1.0
AVERAGE_START, AVERAGE_EVERY = 1000, 5
TIME_DIM = 16
MAXIMUM = 1e-20  # of a variance's logarithm


def schedule() -> dict[str, np.ndarray]:
    """The variance-preserving schedule's coefficients, (N,) each."""
    t = np.arange(1, N + 1)
    betas = 1 - np.exp(-0.1 / N - 0.5 * 9.9 * (2 * t - 1) / N**2)
    abar = np.cumprod(1 - betas)
    before = np.append(1.0, abar[:-1])
    return {
        "root_abar": np.sqrt(abar),
        "root_rest": np.sqrt(1 - abar),
        "std": np.sqrt(np.maximum(betas * (1 - before) / (1 - abar), MAXIMUM)),
        "from_start": betas * np.sqrt(before) / (1 - abar),
        "from_x": (1 - before) * np.sqrt(1 - betas) / (1 - abar),
    }


TABLE = schedule()


def mish(x: Array) -> Array:
    return x * jnp.tanh(jax.nn.softplus(x))


def linear(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def denoise(params: Params, x: Array, t: Array, state: Array) -> Array:
    """The noise in x (B, A) at timesteps t (B,) or ()."""
    half = TIME_DIM // 2
    frequency = jnp.exp(jnp.arange(half, dtype=x.dtype) * -(np.log(10000) / (half - 1)))
    angle = jnp.asarray(t, x.dtype)[..., None] * frequency
    time = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    time = linear(params, "time_mlp.2", mish(linear(params, "time_mlp.0", time)))
    time = jnp.broadcast_to(time, (len(x), TIME_DIM))
    hidden = jnp.concatenate([x, time, state], axis=-1)
    for layer in (0, 2, 4):
        hidden = mish(linear(params, f"mid_layer.{layer}", hidden))
    return linear(params, "final_layer", hidden)


def critics(params: Params, state: Array, action: Array) -> tuple[Array, Array]:
    """The values (B,) of both."""
    values = []
    for member in (0, 1):
        hidden = jnp.concatenate([state, action], axis=-1)
        for layer in (0, 2, 4):
            hidden = mish(linear(params, f"members.{member}.layers.{layer}", hidden))
        values.append(linear(params, f"members.{member}.layers.6", hidden)[:, 0])
    return values[0], values[1]


def sample(params: Params, state: Array, start: Array, noise: Array) -> Array:
    """Actions (B, A): DDPM's chain from `start` (B, A), x_0 clipped, with the noise (N, B, A) of its steps."""
    x = start
    for index, t in enumerate(reversed(range(N))):
        eps = denoise(params, x, jnp.asarray(t), state)
        clean = jnp.clip((x - TABLE["root_rest"][t] * eps) / TABLE["root_abar"][t], -1, 1)
        x = TABLE["from_start"][t] * clean + TABLE["from_x"][t] * x
        if t:
            x = x + TABLE["std"][t] * noise[index]
    return jnp.clip(x, -1, 1)


def critic_loss(params: Params, batch: Params, target: Array) -> Array:
    first, second = critics(params, batch["state"], batch["action"])
    return jnp.square(first - target).mean() + jnp.square(second - target).mean()


def actor_loss(params: Params, critic: Params, batch: Params, noise: Params) -> tuple[Array, tuple[Array, Array]]:
    t, eps, state = noise["bc_t"], noise["bc_eps"], batch["state"]
    scale = [jnp.asarray(TABLE[name], eps.dtype)[t][:, None] for name in ("root_abar", "root_rest")]
    bc_loss = jnp.square(denoise(params, scale[0] * batch["action"] + scale[1] * eps, t, state) - eps).mean()
    both = critics(critic, state, sample(params, state, noise["actor_start"], noise["actor_noise"]))
    ascended, other = (jnp.where(noise["coin"] == index, *both) for index in (0, 1))
    q_loss = -ascended.mean() / jax.lax.stop_gradient(jnp.abs(other).mean())
    return bc_loss + ETA * q_loss, (bc_loss, q_loss)


def adam(params: Params, gradient: Params, moments: tuple[Params, Params], step: Array) -> tuple[Params, Any]:
    """One step with the gradient's global norm clipped, as PyTorch does both."""
    norm = jnp.sqrt(sum(jnp.square(value).sum() for value in gradient.values()))
    factor = jnp.minimum(GRAD_NORM / (norm + 1e-6), 1.0)
    gradient = jax.tree.map(lambda value: factor * value, gradient)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)
    count = step + 1.0
    rate, root = RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, first, second)
    return params, (first, second)


def average(target: Params, source: Params, rate: Array | float) -> Params:
    return jax.tree.map(lambda old, new: old + rate * (new - old), target, source)


def initial_state(actor: Params, critic: Params) -> State:
    """The state of training from initial parameters."""
    zeros = partial(jax.tree.map, jnp.zeros_like)
    copies = {"actor_ema": jax.tree.map(jnp.copy, actor), "critic_target": jax.tree.map(jnp.copy, critic)}
    moments = {"actor_moments": (zeros(actor), zeros(actor)), "critic_moments": (zeros(critic), zeros(critic))}
    return {"actor": actor, "critic": critic, **copies, **moments, "step": jnp.zeros((), jnp.int32)}


def update(state: State, batch: Params, noise: Params) -> tuple[State, Params]:
    """One update: critics, actor, averages.

    Args:
        state: as `initial_state` makes it.
        batch: state (B, S), action (B, A), reward (B,), next_state (B, S), terminal (B,).
        noise: what dqlab's `DiffusionQL.update_noise` asks for, by the same names.
    """
    step = state["step"].astype(batch["reward"].dtype)
    next_action = sample(state["actor_ema"], batch["next_state"], noise["target_start"], noise["target_noise"])
    value = jnp.minimum(*critics(state["critic_target"], batch["next_state"], next_action))
    target = batch["reward"] + DISCOUNT * (1 - batch["terminal"]) * value
    loss, gradient = jax.value_and_grad(critic_loss)(state["critic"], batch, target)
    critic, critic_moments = adam(state["critic"], gradient, state["critic_moments"], step)
    (_, (bc_loss, q_loss)), gradient = jax.value_and_grad(actor_loss, has_aux=True)(
        state["actor"], critic, batch, noise
    )
    actor, actor_moments = adam(state["actor"], gradient, state["actor_moments"], step)
    moves = (state["step"] >= AVERAGE_START) & (state["step"] % AVERAGE_EVERY == 0)
    made = {
        "actor": actor,
        "critic": critic,
        "actor_ema": average(state["actor_ema"], actor, jnp.where(moves, TAU, 0.0).astype(step.dtype)),
        "critic_target": average(state["critic_target"], critic, TAU),
        "actor_moments": actor_moments,
        "critic_moments": critic_moments,
        "step": state["step"] + 1,
    }
    return made, {"critic/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}


@partial(jax.jit, donate_argnums=0, static_argnames="batch")
def train_step(state: State, data: Params, key: Array, batch: int = 256) -> tuple[State, Params]:
    """One update on a batch drawn from the data, by a key of its own."""
    keys = jax.random.split(jax.random.fold_in(key, state["step"]), 8)
    index = jax.random.randint(keys[0], (batch,), 0, len(data["reward"]))
    rows, actions = {name: values[index] for name, values in data.items()}, data["action"].shape[1]
    noise = {
        "target_start": jax.random.normal(keys[1], (batch, actions)),
        "target_noise": jax.random.normal(keys[2], (N, batch, actions)),
        "bc_t": jax.random.randint(keys[3], (batch,), 0, N),
        "bc_eps": jax.random.normal(keys[4], (batch, actions)),
        "actor_start": jax.random.normal(keys[5], (batch, actions)),
        "actor_noise": jax.random.normal(keys[6], (N, batch, actions)),
        "coin": jax.random.randint(keys[7], (), 0, 2),
    }
    return update(state, rows, noise)


def on_gpu() -> bool:
    """Whether this JAX sees a GPU."""
    return jax.default_backend() == "gpu"


class JaxAgent:
    """Trains in place: `step()` is one update.

    Args:
        weights: initial parameters, `actor` and `critic`, by name.
        fields: the transitions, (n, ...) each.
        device: `cpu` or `cuda`.
        batch: B.
    """

    def __init__(
        self, weights: dict[str, dict[str, np.ndarray]], fields: dict[str, np.ndarray], device: str, batch: int = 256
    ) -> None:
        put = partial(jax.device_put, device=jax.devices("gpu" if device == "cuda" else device)[0])
        actor, critic = ({name: put(value) for name, value in weights[net].items()} for net in ("actor", "critic"))
        self.state = put(initial_state(actor, critic))
        self._data, self._key = {name: put(values) for name, values in fields.items()}, put(jax.random.key(0))
        self._batch = batch

    def step(self) -> None:
        self.state, _ = train_step(self.state, self._data, self._key, self._batch)

    def synchronize(self) -> None:
        jax.block_until_ready(self.state["step"])
        jax.block_until_ready(self.state["actor"])
