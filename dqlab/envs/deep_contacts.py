"""Contacts of round geoms deep in boxes, as MuJoCo 2.1.0 has them: of ants in walls, of fingers in tables."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from dqlab.envs.physics import Array

SUSPECT = 0.5  # share of the smallest radius: where no substep begins or ends with a deeper contact, none is capped
STATE = int(mujoco.mjtState.mjSTATE_FULLPHYSICS) | int(mujoco.mjtState.mjSTATE_WARMSTART)


class Stepper:
    """Steps a model as MuJoCo does, with MuJoCo 2.1.0's contacts between round geoms and boxes.

    A capsule touches a box with one or two spheres. Where such a sphere's centre lies inside the box, MuJoCo 2.1.0
    gives the contact the sphere's radius as its depth, however deep it is; later releases give the true depth. Position
    and normal are the same, and so are all other contacts. It is rare: the axis of an ant's leg must be inside a wall,
    or that of a finger inside a table.

    Args:
        model, data: what is stepped.
        depth: (ngeom,), m, what the depth of a geom's contacts with boxes cannot exceed; 0 for anything.
    """

    def __init__(self, model: Any, data: Any, depth: Array) -> None:
        self._model, self._data, self._depth = model, data, depth.copy()
        self._boxes = model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
        self._before = np.empty(mujoco.mj_stateSize(model, STATE))
        noted = depth[depth > 0]
        self._suspect = -SUSPECT * noted.min() if len(noted) else -np.inf

    def step(self, substeps: int) -> None:
        """Step by step; if a contact with a box becomes suspect, all over with corrected contacts."""
        mujoco.mj_getState(self._model, self._data, self._before, STATE)
        for _ in range(substeps):
            if self._suspicious():
                break
            mujoco.mj_step(self._model, self._data)
        if self._suspicious():
            mujoco.mj_setState(self._model, self._data, self._before, STATE)
            # MuJoCo calls it, for whatever model, between finding contacts and solving for their forces
            theirs = mujoco.get_mjcb_passive()
            mujoco.set_mjcb_passive(self._correct)
            try:
                mujoco.mj_step(self._model, self._data, substeps)
            finally:
                mujoco.set_mjcb_passive(theirs)

    def _suspicious(self) -> bool:
        """Whether a contact is suspect, and is one with a box, not with the floor."""
        if not self._data.ncon:
            return False
        contact = self._data.contact
        suspect = contact.dist < self._suspect
        return bool(suspect.any() and self._boxes[contact.geom[suspect]].any())

    def _correct(self, model: Any, data: Any) -> None:
        # MuJoCo calls back with another Python object for the same model: its private `_address` in C tells which one
        # it is; if it went, tests/envs/test_mazes.py's ants in walls would fail
        if model._address != self._model._address or not data.ncon:
            return
        pairs = data.contact.geom
        depth = np.where(self._boxes[pairs].any(axis=1), self._depth[pairs].max(axis=1), 0.0)
        deep = np.flatnonzero((depth > 0) & (data.contact.dist < -depth))
        for number in deep:
            data.contact[number].dist = -depth[number]
        if len(deep):
            mujoco.mj_makeConstraint(model, data)
            mujoco.mj_projectConstraint(model, data)
