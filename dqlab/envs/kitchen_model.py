"""D4RL's compiled kitchen, as MuJoCo 2.1.0 made it, from gymnasium-robotics' model and a modern MuJoCo."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.envs.physics import capsule_as_cylinder, rotation_of

CAPSULE_MASSES = {"microdoorroot": 0.02, "kettleroot": 0.02}
"""kg of each weighed capsule, by the movable bodies that have any: the XML fixes the geoms' masses."""

WEIGHED_GROUPS = range(3, 6)
"""Groups of geoms that count for inertia (`inertiagrouprange`); the others are for the eye."""

TURN = 1e-3
"""rad; principal axes turn by less when capsules become cylinders."""

FRAME = 480
"""Pixels a side of a rendered frame, if no more are asked for; the XML's 2560 x 1920 take seconds in software."""

Array = NDArray[np.float64]


def model_file() -> Path:
    """Where gymnasium-robotics keeps the kitchen's XML; the package itself is not imported.

    Raises:
        ModuleNotFoundError: gymnasium-robotics is not installed.
    """
    spec = find_spec("gymnasium_robotics")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'gymnasium_robotics'")
    assets = Path(next(iter(spec.submodule_search_locations))) / "envs" / "assets" / "kitchen_franka"
    return assets / "kitchen_assets" / "kitchen_env_model.xml"


@lru_cache(maxsize=1)
def kitchen_model() -> Any:
    """The `mujoco.MjModel`, compiled once a process: 56 MB that all environments read and none writes."""
    import mujoco

    model = mujoco.MjModel.from_xml_path(str(model_file()))
    model.vis.global_.offwidth = model.vis.global_.offheight = FRAME
    let_arm_pass_its_stand(model)
    for body, mass in CAPSULE_MASSES.items():
        legacy_capsules(model, body, mass)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def let_arm_pass_its_stand(model: Any) -> None:
    """The cylinder that the arm stands on collides with nothing, as in D4RL."""
    stand = model.body_geomadr[model.body("panda0_link0").parentid[0]]
    model.geom_contype[stand] = model.geom_conaffinity[stand] = 0


def _exact_capsule(radius: float, half_length: float) -> Array:
    """Principal inertia (3,) for a mass of 1, z along the axis."""
    volume, ball = 2.0 * half_length, 4.0 / 3.0 * radius
    rod, caps = volume / (volume + ball), ball / (volume + ball)
    along = rod * radius**2 / 2.0 + caps * 0.4 * radius**2
    across = rod * (3.0 * radius**2 + 4.0 * half_length**2) / 12.0
    across += caps * (0.4 * radius**2 + half_length**2 + 0.75 * radius * half_length)
    return np.array([across, across, along])


def _legacy_capsule(radius: float, half_length: float) -> Array:
    """What MuJoCo 2.1.0 took for it."""
    mass, inertia = capsule_as_cylinder(radius, half_length)
    return inertia / mass


def legacy_capsules(model: Any, body: str, mass: float) -> None:
    """Give a body the inertia that MuJoCo 2.1.0 compiled, in place: its capsules are cylinders.

    Where the model fixes a geom's mass, only the shape of its inertia differs; the centre of mass stays.

    Args:
        model: an `mujoco.MjModel`.
        body: its name.
        mass: kg of each capsule.
    """
    import mujoco

    index = model.body(body).id
    geoms = range(model.body_geomadr[index], model.body_geomadr[index] + model.body_geomnum[index])
    frame = rotation_of(model.body_iquat[index])
    tensor = np.diag(model.body_inertia[index])
    for geom in geoms:
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE and model.geom_group[geom] in WEIGHED_GROUPS:
            radius, half_length, _ = model.geom_size[geom]
            change = _legacy_capsule(radius, half_length) - _exact_capsule(radius, half_length)
            rotation = frame.T @ rotation_of(model.geom_quat[geom])
            tensor += mass * rotation @ np.diag(change) @ rotation.T
    _turn_inertial_frame(model, index, frame, tensor)


def _turn_inertial_frame(model: Any, body: int, frame: Array, tensor: Array) -> None:
    """Write an inertia (3, 3), nearly diagonal in the body's inertial frame, and the frame where it is diagonal.

    The boxes that bound the geoms are stored in that frame: it may turn by 1e-4, but its axes may not be permuted.
    """
    import mujoco

    values, axes = np.linalg.eigh(tensor)
    values, axes = values[::-1], axes[:, ::-1]
    axes = axes * np.sign(np.diag(axes))
    assert np.abs(axes - np.eye(3)).max() < TURN, "the principal axes kept their order"
    mujoco.mju_mat2Quat(model.body_iquat[body], (frame @ axes).flatten())
    model.body_inertia[body] = values
    boxes = slice(model.body_bvhadr[body], model.body_bvhadr[body] + model.body_bvhnum[body])
    model.bvh_aabb[boxes, 3:] += TURN  # they are below 1 m
