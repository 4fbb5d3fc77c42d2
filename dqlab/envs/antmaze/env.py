"""AntMaze as a Gymnasium environment; importing this module registers `dqlab/AntMaze-v0`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

from dqlab.envs.antmaze.maze import (
    CAMERA,
    GOAL_RADIUS,
    GOAL_SITE,
    TORQUE,
    AntMaze,
    ant_maze_xml,
    draw_goal,
    goal_laws,
    maze_by_name,
)
from dqlab.envs.physics import CompiledModelEnv

Array = NDArray[np.float64]
SUBSTEPS = 5
START_NOISE = 0.1


class AntMazeEnv(CompiledModelEnv, MujocoEnv):  # type: ignore[misc]
    """An ant that is to reach a goal in a maze: D4RL's antmaze-*-v0.

    The observation (29,) is position (15,) and velocity (14,); the goal is not in it. An action (8,) in [-1, 1] is
    a share of 30 N m, clipped. The reward is 1 within 0.5 m of the goal, where the episode ends, and 0 elsewhere;
    nothing else ends it. Episodes start at the origin, positions off by U(-0.1, 0.1), velocities by 0.1 N(0, 1).

    Args:
        maze: `umaze`, `medium` or `large`.
        goal_law: when a goal is drawn, a name from its registry.
        rendering: `render_mode`, `width`, `height` and more of `MujocoEnv`'s; by default the camera is above the maze.

    Attributes:
        goal: x and y (m), from the first reset on; also in every `info`.

    Raises:
        ConfigError: there is no such maze, or no such law.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": AntEnv.metadata["render_modes"],  # `MujocoEnv` wants its release's list, no more and no less
        "render_fps": 10,
    }

    def __init__(self, maze: str = "umaze", goal_law: str = AntMaze.goal_law, **rendering: Any) -> None:
        self.maze, self._draws = maze_by_name(maze), goal_laws.get(goal_law)
        self.goal: Array | None = None
        self._group: int | None = None
        states = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        camera = {} if rendering.get("camera_id") is not None else {"camera_name": CAMERA}
        super().__init__("ant.xml", SUBSTEPS, states, **{**camera, **rendering})
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self._stepper = Stepper(self.model, self.data)

    def compile_model(self) -> Any:
        return mujoco.MjModel.from_xml_string(ant_maze_xml(self.maze, self.fullpath))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of the initial state, and of a goal drawn for this environment or episode.
            options: `group`, a number: under the law `per_environment`, episodes with the same one share their goal.
        """
        self._group = (options or {}).get("group")
        self._stepper.read_depths()
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"goal": self.goal}

    def reset_model(self) -> Array:
        """Draw the initial state, then the goal."""
        qpos = self.init_qpos + self.np_random.uniform(-START_NOISE, START_NOISE, self.model.nq)
        qvel = self.init_qvel + START_NOISE * self.np_random.standard_normal(self.model.nv)
        mujoco.mj_normalizeQuat(self.model, qpos)  # MuJoCo 2.1.0 did whenever it computed positions
        rng = self._draws(self.np_random, self._group, self.goal is not None)
        if rng is not None:
            self._place_goal(draw_goal(self.maze, rng))
        self.set_state(qpos, qvel)
        return self._observation()

    def _place_goal(self, goal: Array) -> None:
        self.goal = goal
        self.model.site(GOAL_SITE).pos[:2] = goal

    def step(self, action: NDArray[np.floating]) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of 0.1 s."""
        self.data.ctrl[:] = np.clip(TORQUE * (action + 1.0) - TORQUE, -TORQUE, TORQUE)
        self._stepper.step(self.frame_skip)
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= GOAL_RADIUS)
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(reached), reached, False, {"goal": self.goal}

    def _observation(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel])


SUSPECT = 0.5
"""Where no substep begins or ends with a contact deeper than this share of the smallest radius, none is capped."""
STATE = int(mujoco.mjtState.mjSTATE_FULLPHYSICS) | int(mujoco.mjtState.mjSTATE_WARMSTART)


class Stepper:
    """Steps a model as MuJoCo does, with MuJoCo 2.1.0's contacts where a physics law has noted depths in the model.

    A capsule touches a box with one or two spheres. Where such a sphere's centre lies inside the box, MuJoCo 2.1.0
    gives the contact the sphere's radius as its depth, however deep it is; later releases give the true depth. Position
    and normal are the same, and so are all other contacts. It is rare: the axis of an ant's leg must be inside a wall.

    Args:
        model: whose `geom_user` holds, for each round geom, the depth (m) that its contacts with boxes cannot exceed;
            0 for none.
        data: its state.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._model, self._data = model, data
        self._boxes = model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
        self._before = np.empty(mujoco.mj_stateSize(model, STATE))
        self.read_depths()

    def read_depths(self) -> None:
        """Look again what the model notes."""
        self._depth = self._model.geom_user[:, 0].copy()
        noted = self._depth[self._depth > 0]
        self._suspect = -SUSPECT * noted.min() if len(noted) else -np.inf

    def step(self, substeps: int) -> None:
        """Step by step; if a contact with a box becomes suspect, all over with corrected contacts."""
        mujoco.mj_getState(self._model, self._data, self._before, STATE)
        suspicious = self._suspicious()
        for _ in range(substeps):
            if suspicious:
                break
            mujoco.mj_step(self._model, self._data)
            suspicious = self._suspicious()
        if suspicious:
            self._over_again(substeps)

    def _suspicious(self) -> bool:
        """Whether a contact is suspect, and is one with a box, not with the floor."""
        if not self._data.ncon:
            return False
        contact = self._data.contact
        suspect = contact.dist < self._suspect
        return bool(suspect.any() and self._boxes[contact.geom[suspect]].any())

    def _over_again(self, substeps: int) -> None:
        mujoco.mj_setState(self._model, self._data, self._before, STATE)
        with self._corrected():
            mujoco.mj_step(self._model, self._data, substeps)

    @contextmanager
    def _corrected(self) -> Iterator[None]:
        """MuJoCo calls `mjcb_passive`, for whatever model, between finding contacts and solving for their forces."""
        theirs = mujoco.get_mjcb_passive()
        mujoco.set_mjcb_passive(self._correct)
        try:
            yield
        finally:
            mujoco.set_mjcb_passive(theirs)

    def _correct(self, model: Any, data: Any) -> None:
        # MuJoCo calls back with another Python object for the same model: its private `_address` in C tells which one
        # it is; if it went, tests/envs/test_antmaze.py's ants in walls would fail
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


gymnasium.register("dqlab/AntMaze-v0", entry_point=AntMazeEnv)
