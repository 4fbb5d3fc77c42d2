"""MuJoCo 2.1 body inertias on a modern MuJoCo, so that scores mean what D4RL's scores mean.

MuJoCo up to 2.1.1 compiled a capsule of radius r and half-length h as a cylinder of radius r and length 2h + r. Later
releases compute the exact capsule, which changes every mass and inertia of the D4RL robots and with them the return of
a fixed policy by a factor of two. Spheres were exact then, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry

physics_laws: Registry[Any] = Registry(
    "physics", "How a locomotion model's body masses and inertias are compiled.", "Experiment.physics", arguments=2
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Body:
    """What a compiled model does not tell about how its bodies' masses came about."""

    density: float = 1000.0  # kg / m^3 of the geoms; MuJoCo's default, which the locomotion models use
    total_mass: float | None = None  # kg, where the XML fixes it (`settotalmass`); masses and inertias are scaled to it


def capsule_as_cylinder(size: Array, density: float = 1000.0) -> tuple[float, Array]:
    """Mass (kg) and principal inertia (3,), z along the axis, of a capsule as MuJoCo <= 2.1.1 compiled it.

    `size` begins with its radius and its half-length, as MuJoCo's does.
    """
    radius, half_length = size[:2]
    length = 2.0 * half_length + radius
    mass = density * np.pi * radius**2 * length
    across = mass * (3.0 * radius**2 + length**2) / 12.0
    return mass, np.array([across, across, mass * radius**2 / 2.0])


def sphere(size: Array, density: float = 1000.0) -> tuple[float, Array]:
    """Mass (kg) and principal inertia (3,) of a sphere, whose radius is size[0]: exact in MuJoCo 2.1.0."""
    mass = density * 4.0 / 3.0 * np.pi * size[0] ** 3
    return mass, np.full(3, 2.0 / 5.0 * mass * size[0] ** 2)


SOLIDS: dict[int, Callable[[Array, float], tuple[float, Array]]] = {2: sphere, 3: capsule_as_cylinder}
"""Mass and principal inertia of a geom, by MuJoCo's number of its type (`mjtGeom`), from its sizes (3,) and density."""


def _body_inertia(model: Any, body: int, density: float) -> tuple[float, Array, Array]:
    """Mass, centre of mass (3,) and inertia tensor (3, 3) about it, in the body's frame, from its geoms."""
    import mujoco

    geoms = np.flatnonzero(model.geom_bodyid == body)
    parts = [SOLIDS[model.geom_type[geom]](model.geom_size[geom], density) for geom in geoms]
    masses = np.array([mass for mass, _ in parts])
    centre = masses @ model.geom_pos[geoms] / masses.sum()
    tensor, matrix = np.zeros((3, 3)), np.zeros(9)
    for geom, (mass, principal) in zip(geoms, parts, strict=True):
        mujoco.mju_quat2Mat(matrix, model.geom_quat[geom])
        rotation, offset = matrix.reshape(3, 3), model.geom_pos[geom] - centre
        tensor += rotation @ np.diag(principal) @ rotation.T
        tensor += mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))  # parallel axes
    return float(masses.sum()), centre, tensor


def round_radii(model: Any) -> Array:
    """Radius (ngeom,), m, of each sphere and capsule; 0 for other geoms."""
    return np.where(np.isin(model.geom_type, list(SOLIDS)), model.geom_size[:, 0], 0.0)


@physics_laws.register(
    "mujoco210",
    source="MuJoCo 2.1.0, measured; the physics of D4RL's gym-mujoco and AntMaze data",
    cites=("todorov2012mujoco",),
)
def legacy_inertia(model: Any, about: Body = Body()) -> None:
    """Give every body of a compiled model the mass and inertia of MuJoCo 2.1.0, in place.

    The world's own geoms (floors, walls) have no mass, and a body that was compiled without mass stays so. Raises
    ValueError: a body with mass has a geom of another type.
    """
    import mujoco

    bodies = [body for body in range(1, model.nbody) if model.body_mass[body] > 0]
    if unknown := {*model.geom_type[np.isin(model.geom_bodyid, bodies)]} - {*SOLIDS}:
        names = sorted(mujoco.mjtGeom(int(kind)).name for kind in unknown)
        raise ValueError(f"MuJoCo 2.1 inertias are known for capsules and spheres only, not for {names}")
    for body in bodies:
        model.body_mass[body], model.body_ipos[body], tensor = _body_inertia(model, body, about.density)
        values, axes = np.linalg.eigh(tensor)  # principal inertia, largest first, about right-handed axes
        axes = axes[:, ::-1].copy()
        axes[:, 2] *= np.sign(np.linalg.det(axes))
        model.body_inertia[body] = values[::-1]
        mujoco.mju_mat2Quat(model.body_iquat[body], axes.flatten())
    if about.total_mass is not None:
        scale = about.total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE  # its boxes stay in the inertial frames as compiled
    if model.nuser_geom:  # room to note how deep MuJoCo 2.1.0 lets contacts with boxes be (`robots.py`)
        model.geom_user[:, 0] = round_radii(model)
    mujoco.mj_setConst(model, mujoco.MjData(model))


@physics_laws.register("modern", source="the installed MuJoCo release", cites=("todorov2012mujoco",))
def modern_inertia(model: Any, about: Body = Body()) -> None:
    """Leave the compiled model as the installed MuJoCo made it: exact capsules, scores unlike D4RL's."""


class CompiledModelEnv(ABC):
    """Comes before Gymnasium's `MujocoEnv` among an environment's bases: `compile_model` gives the model it steps."""

    @abstractmethod
    def compile_model(self) -> Any:
        """The `mujoco.MjModel`."""

    def _initialize_simulation(self: Any) -> tuple[Any, Any]:  # Gymnasium's; no public method may say otherwise
        """The model, whose frame buffer is as large as what is drawn, and its state."""
        import mujoco

        model = self.compile_model()
        frame = model.vis.global_
        frame.offwidth, frame.offheight = max(frame.offwidth, self.width), max(frame.offheight, self.height)
        return model, mujoco.MjData(model)
