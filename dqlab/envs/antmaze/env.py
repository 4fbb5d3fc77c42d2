"""AntMaze as a Gymnasium environment; importing this module registers `dqlab/AntMaze-v0`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv

from dqlab.envs.antmaze.maze import CAMERA, GOAL_RADIUS, GOAL_SITE, MAZES, TORQUE, ant_maze_xml, draw_goal, goal_laws
from dqlab.envs.deep_contacts import Stepper
from dqlab.envs.physics import Array, CompiledModelEnv

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
        rendering: of `MujocoEnv`, such as `render_mode`; by default the camera is above the maze.

    Attributes:
        goal: x and y (m), from the first reset on; also in every `info`.
    """

    metadata: ClassVar[dict[str, Any]] = {**AntEnv.metadata, "render_fps": 10}  # with its release's list of modes

    def __init__(self, maze: str = "umaze", goal_law: str = "per_environment", **rendering: Any) -> None:
        self.maze, self._draws = MAZES[maze], goal_laws.get(goal_law)
        self.goal: Array | None = None
        self._group: int | None = None
        states = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)
        camera = {} if rendering.get("camera_id") is not None else {"camera_name": CAMERA}
        super().__init__("ant.xml", SUBSTEPS, states, **{**camera, **rendering})
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)

    def compile_model(self) -> Any:
        return mujoco.MjModel.from_xml_string(ant_maze_xml(self.maze, self.fullpath))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; under the law `per_environment`, those with the same number `group` share their goal."""
        self._group = (options or {}).get("group")
        self._stepper = Stepper(self.model, self.data, self.model.geom_user[:, 0])  # a physics law has noted depths
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"goal": self.goal}

    def reset_model(self) -> Array:
        """Draw the initial state, then the goal."""
        qpos = self.init_qpos + self.np_random.uniform(-START_NOISE, START_NOISE, self.model.nq)
        qvel = self.init_qvel + START_NOISE * self.np_random.standard_normal(self.model.nv)
        mujoco.mj_normalizeQuat(self.model, qpos)  # MuJoCo 2.1.0 did whenever it computed positions
        rng = self._draws(self.np_random, self._group, self.goal is not None)
        if rng is not None:
            self.goal = draw_goal(self.maze, rng)
            self.model.site(GOAL_SITE).pos[:2] = self.goal
        self.set_state(qpos, qvel)
        return np.asarray(self.state_vector())

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of 0.1 s."""
        self.data.ctrl[:] = np.clip(TORQUE * (action + 1.0) - TORQUE, -TORQUE, TORQUE)
        self._stepper.step(self.frame_skip)
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= GOAL_RADIUS)
        if self.render_mode == "human":
            self.render()
        return self.state_vector(), float(reached), reached, False, {"goal": self.goal}


gymnasium.register("dqlab/AntMaze-v0", entry_point=AntMazeEnv)
