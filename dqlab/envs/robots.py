"""D4RL's ants and balls on today's MuJoCo, and MuJoCo 2.1.0's contacts of round geoms deep in boxes.

Importing this module registers `dqlab/Ant-v2`, `dqlab/AntMaze-v0` and `dqlab/Maze2D-v1`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v4 import AntEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv as NewerAntEnv

from dqlab.envs import mazes
from dqlab.envs.mazes import CAMERA, GOAL_LAWS, GOAL_RADIUS, GOAL_SITE, LAYOUTS, MAZES, TORQUE, ant_maze_xml, draw_goal
from dqlab.envs.physics import Array, CompiledModelEnv

SUSPECT = 0.5  # share of the smallest radius: where no substep begins or ends with a deeper contact, none is capped
STATE = int(mujoco.mjtState.mjSTATE_FULLPHYSICS) | int(mujoco.mjtState.mjSTATE_WARMSTART)
SUBSTEPS, START_NOISE = 5, 0.1  # of an ant in a maze: a step's, and in its first position and velocity
SPEED = 5.0  # m/s; before a step, each velocity of a ball is clipped to it
NOISE = 0.1  # in a ball's first position and velocity
START_OFFSET = 1.2
"""m: where the ball is in the world at position 0; cell (0, 0) has its centre at 1 m, D4RL's goals and starts are at
whole positions, 0.2 m off the centres of their cells."""
BOX = '<geom type="box" size=".5 .5 .2" pos="{} {} 0" rgba=".35 .3 .25 1"/>'


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
        # it is; if it went, tests/envs/test_recordings.py's ants in walls would fail
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


class Ant(AntEnv):  # type: ignore[misc]
    """An ant (8 actions in [-1, 1], 150 N m each) that is to run along x: D4RL's ant-*-v2.

    The observation (111,) is position without x and y (13,), velocity (14,), and contact forces (84,), which are 0:
    MuJoCo from 2.0 on computes them only where a sensor asks for them, and this model has none. The reward is the
    velocity along x, plus 1, minus half the squared norm of the action; the episode ends when the torso is lower than
    0.2 m or higher than 1 m. Ant-v4 alone has an observation of 27 numbers, or true contact forces and their cost.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (111,), np.float64)

    def set_state(self, qpos: Array, qvel: Array) -> None:
        """Stand in a state, the torso's quaternion normalised, as MuJoCo 2.1.0 does by itself."""
        normalised = np.array(qpos, dtype=np.float64)
        mujoco.mj_normalizeQuat(self.model, normalised)
        super().set_state(normalised, qvel)

    def _get_obs(self) -> Array:
        return np.concatenate([super()._get_obs(), np.zeros(84)])


class AntMazeEnv(CompiledModelEnv, MujocoEnv):  # type: ignore[misc]
    """An ant that is to reach a goal in a maze: D4RL's antmaze-*-v0.

    The observation (29,) is position (15,) and velocity (14,); the goal is not in it. An action (8,) in [-1, 1] is
    a share of 30 N m, clipped. The reward is 1 within 0.5 m of the goal, where the episode ends, and 0 elsewhere;
    nothing else ends it. Episodes start at the origin, positions off by U(-0.1, 0.1), velocities by 0.1 N(0, 1).

    Args:
        maze: `umaze`, `medium` or `large`.
        goal_law: when a goal is drawn, a name of `GOAL_LAWS`.
        rendering: of `MujocoEnv`, such as `render_mode`; by default the camera is above the maze.
    """

    metadata: ClassVar[dict[str, Any]] = {**NewerAntEnv.metadata, "render_fps": 10}  # with its release's list of modes

    def __init__(self, maze: str = "umaze", goal_law: str = "per_environment", **rendering: Any) -> None:
        self.maze, self._per_episode = MAZES[maze], GOAL_LAWS[goal_law]
        self.goal: Array | None = None  # x and y (m), from the first reset on; also in every `info`
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
        if self._group is not None and not self._per_episode:
            # what D4RL draws from, where a program seeds NumPy with that number
            self.goal = draw_goal(self.maze, np.random.RandomState(self._group))
        elif self.goal is None or self._per_episode:
            self.goal = draw_goal(self.maze, self.np_random)
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


gymnasium.register("dqlab/Ant-v2", entry_point=Ant, max_episode_steps=1000)
gymnasium.register("dqlab/AntMaze-v0", entry_point=AntMazeEnv)
gymnasium.register("dqlab/Maze2D-v1", entry_point=Maze2D)
