"""MuJoCo 2.1 body inertias on a modern MuJoCo, so that scores mean what D4RL's scores mean.

MuJoCo up to 2.1.1 compiled a capsule of radius r and half-length h as a cylinder of radius r and
length 2h + r. Later releases compute the exact capsule, which changes every mass and inertia of the
D4RL robots and with them the return of a fixed policy by a factor of two. `legacy_inertia` writes the
old values into a compiled model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.registry import Registry


@dataclass(frozen=True)
class Body:
    """What a compiled model does not tell about how its bodies' masses came about.

    Attributes:
        density: kg / m^3 of the geoms; MuJoCo's default, which the locomotion models use.
        total_mass: kg, where the XML fixes it (`settotalmass`); masses and inertias are scaled to it.
    """

    density: float = 1000.0
    total_mass: float | None = None


physics_laws: Registry[Any] = Registry(
    "physics",
    "How a locomotion model's body masses and inertias are compiled.",
    "Experiment.physics",
    arguments=2,
)

Array = NDArray[np.float64]


def capsule_as_cylinder(radius: float, half_length: float, density: float = 1000.0) -> tuple[float, Array]:
    """Mass (kg) and principal inertia (3,), z along the axis, of a capsule as MuJoCo <= 2.1.1 compiled it."""
    length = 2.0 * half_length + radius
    mass = density * np.pi * radius**2 * length
    across = mass * (3.0 * radius**2 + length**2) / 12.0
    return mass, np.array([across, across, mass * radius**2 / 2.0])


def _rotation(quat: Array) -> Array:
    import mujoco

    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def _body_inertia(model: Any, body: int, density: float) -> tuple[float, Array, Array]:
    """Mass, centre of mass (3,) and inertia tensor (3, 3) about it, in the body's frame, from its capsules."""
    first = model.body_geomadr[body]
    geoms = range(first, first + model.body_geomnum[body])
    parts = [capsule_as_cylinder(model.geom_size[g][0], model.geom_size[g][1], density) for g in geoms]
    masses = np.array([mass for mass, _ in parts])
    positions = model.geom_pos[list(geoms)]
    centre = masses @ positions / masses.sum()
    tensor = np.zeros((3, 3))
    for geom, (mass, principal), position in zip(geoms, parts, positions, strict=True):
        rotation = _rotation(model.geom_quat[geom])
        offset = position - centre
        tensor += rotation @ np.diag(principal) @ rotation.T
        tensor += mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))  # parallel axes
    return float(masses.sum()), centre, tensor


def _principal(tensor: Array) -> tuple[Array, Array]:
    """Principal inertia (3,), largest first, and the quaternion (4,) of its right-handed axes."""
    import mujoco

    values, axes = np.linalg.eigh(tensor)
    values, axes = values[::-1], axes[:, ::-1].copy()
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.flatten())
    return values, quat


@physics_laws.register("mujoco210", source="MuJoCo 2.1.0, measured; the physics of D4RL's gym-mujoco data")
def legacy_inertia(model: Any, about: Body = Body()) -> None:
    """Give every capsule-built body of a compiled model the mass and inertia of MuJoCo 2.1.0, in place.

    Args:
        model: an `mujoco.MjModel` whose moving bodies consist of capsules only.
        about: what the compiled model does not tell.

    Raises:
        ValueError: a moving body has a geom that is not a capsule.
    """
    import mujoco

    if np.any(model.geom_type[model.geom_bodyid > 0] != mujoco.mjtGeom.mjGEOM_CAPSULE):
        raise ValueError("MuJoCo 2.1 inertias are known for bodies made of capsules only")
    for body in range(1, model.nbody):
        mass, centre, tensor = _body_inertia(model, body, about.density)
        inertia, quat = _principal(tensor)
        model.body_mass[body] = mass
        model.body_ipos[body], model.body_iquat[body] = centre, quat
        model.body_inertia[body] = inertia
    if about.total_mass is not None:
        scale = about.total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE  # its boxes stay in the inertial frames as compiled
    mujoco.mj_setConst(model, mujoco.MjData(model))


@physics_laws.register("modern", source="the installed MuJoCo release")
def modern_inertia(model: Any, about: Body = Body()) -> None:
    """Leave the compiled model as the installed MuJoCo made it: exact capsules, scores unlike D4RL's."""
