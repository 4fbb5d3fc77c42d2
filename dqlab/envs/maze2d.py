"""D4RL's Maze2D: a ball in a maze, seen from above; importing this module registers `dqlab/Maze2D-v1`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from dqlab.envs.antmaze import maze as mazes
from dqlab.envs.antmaze.maze import CAMERA, GOAL_RADIUS, GOAL_SITE, Maze
from dqlab.envs.physics import Array, CompiledModelEnv

LAYOUTS = {**mazes.MAZES, **{name: Maze(tuple(rows)) for name, rows in mazes.DRAWINGS["maze2d"].items()}}
"""By D4RL's names; episodes start in any free cell. A cell has 1 m; x grows with rows, y with columns."""
SPEED = 5.0  # m/s; before a step, each velocity is clipped to it
NOISE = 0.1
START_OFFSET = 1.2
"""m: where the ball is in the world at position 0; cell (0, 0) has its centre at 1 m, D4RL's goals and starts are at
whole positions, 0.2 m off the centres of their cells."""
BOX = '<geom type="box" size=".5 .5 .2" pos="{} {} 0" rgba=".35 .3 .25 1"/>'


class Maze2D(CompiledModelEnv, MujocoEnv):  # type: ignore[misc]
    """A ball, pushed by two motors (actions (2,) in [-1, 1], 100 N), that is to stay at a goal: D4RL's maze2d-*.

    The observation (4,) is position and velocity; the goal is not in it, but is always the same. The reward is 1 within
    0.5 m of the goal and 0 elsewhere; or, dense, exp(-distance). Nothing ends an episode but its step limit. It begins
    in any free cell or the goal's, position off by U(-0.1, 0.1), velocity 0.1 N(0, 1). A step is 10 ms.

    Args:
        maze: `open`, `umaze`, `medium` or `large`.
        dense: whether the reward is the dense one.
        rendering: of `MujocoEnv`, such as `render_mode`; by default the camera is above the maze.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 100}

    def __init__(self, maze: str = "umaze", dense: bool = False, **rendering: Any) -> None:
        self.maze, self.dense = LAYOUTS[maze], dense
        self._starts = np.array([*self.maze.cells(mazes.FREE + mazes.START), self.maze.goal], dtype=np.float64)
        self.goal = np.array(self.maze.goal, dtype=np.float64)
        states = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        camera = {} if rendering.get("camera_id") is not None else {"camera_name": CAMERA}
        super().__init__("point.xml", 1, states, **{**camera, **rendering})
        self.model.site(GOAL_SITE).pos[:2] = self.goal + START_OFFSET

    def compile_model(self) -> Any:
        """The model, whose contacts are as soft as MuJoCo 2.1.0's.

        A contact's regularisation is a share of the body's mean inverse inertia, over three axes in 2.1.0, over the two
        along which the ball moves in later releases.
        """
        x, y = (len(self.maze.rows) + 1) / 2, (len(self.maze.rows[0]) + 1) / 2
        walls = "".join(BOX.format(i + 1.0, j + 1.0) for i, j in self.maze.cells(mazes.WALL))
        height = mazes.CAMERA_DISTANCE * (2 * max(x, y) - 1)
        known = {"camera": CAMERA, "site": GOAL_SITE, "radius": GOAL_RADIUS, "start": START_OFFSET}
        xml = (files("dqlab.envs") / "maze2d.xml").read_text().format(x=x, y=y, height=height, walls=walls, **known)
        model = mujoco.MjModel.from_xml_string(xml)
        model.body_invweight0[model.body("ball").id, 0] = model.dof_invweight0.sum() / 3.0
        return model

    def reset_model(self) -> Array:
        cell = self._starts[self.np_random.choice(len(self._starts))]
        qpos = cell + self.np_random.uniform(-NOISE, NOISE, 2)
        self.set_state(qpos, NOISE * self.np_random.standard_normal(2))
        return np.asarray(self.state_vector())

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of 10 ms."""
        self.set_state(self.data.qpos, np.clip(self.data.qvel, -SPEED, SPEED))
        self.do_simulation(np.clip(action, -1.0, 1.0), self.frame_skip)
        distance = float(np.linalg.norm(self.data.qpos - self.goal))
        reward = float(np.exp(-distance)) if self.dense else float(distance <= GOAL_RADIUS)
        if self.render_mode == "human":
            self.render()
        return self.state_vector(), reward, False, False, {"goal": self.goal}


gymnasium.register("dqlab/Maze2D-v1", entry_point=Maze2D)
