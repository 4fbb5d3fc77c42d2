"""D4RL's Franka kitchen on gymnasium-robotics' model; importing this module registers `dqlab/Kitchen-v0`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.utils.ezpickle import EzPickle

from dqlab.envs.physics import Array, CompiledModelEnv

FACTS = json.loads((files("dqlab.envs") / "kitchen.json").read_text())
TURN = 1e-3  # m: what bounds geoms lies in the inertial frame; 1 m across, it turns by less than 1e-3 with the axes
FRAME = 480  # pixels a side of a frame, if no more are asked for; the XML's 2560 x 1920 take seconds in software
ROBOT, OBJECTS = 9, 21  # positions (qpos) of the arm with its fingers, then those of what it moves
FRAME_SKIP = 40  # steps of 2 ms a control step: 12.5 Hz
SPEED = 2.0  # rad/s (fingers: m/s) that an action of 1 asks for
LOW, HIGH = np.array(FACTS["low"]), np.array(FACTS["high"])  # (9,), of the position servos' targets: rad, fingers m
INITIAL = np.array(FACTS["initial"])  # positions (30,) at the start of every episode, at rest
GOALS = {name: (slice(first, first + len(wanted)), wanted) for name, (first, wanted) in FACTS["goals"].items()}
"""What can be asked for: which positions, and what they should be."""
AMPLITUDES = np.repeat([0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1])
"""Amplitudes of the uniform noise on each position (30,), for a ratio of 1."""
CLOSE = 0.3  # a goal is reached when its observed positions are nearer to it than this
DRAWS = 2 * (ROBOT + OBJECTS)  # of an observation: D4RL has noise on the velocities too, although nobody sees them
CACHED = 5  # observations that D4RL makes at a reset before the first one that is seen
CAMERA = {"distance": 2.2, "azimuth": 70.0, "elevation": -35.0, "lookat": np.array([-0.2, 0.5, 2.0])}


def model_file() -> Path:
    """Where gymnasium-robotics keeps the kitchen's XML; the package itself is not imported."""
    spec = find_spec("gymnasium_robotics")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'gymnasium_robotics'")
    return Path(spec.origin).parent / "envs/assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml"


class Kitchen(CompiledModelEnv, MujocoEnv, EzPickle):  # type: ignore[misc]
    """A Franka arm (9 actions in [-1, 1]: joint velocities) that should bring parts of a kitchen to their goals.

    Observation (60,): noisy positions of the arm (9) and of the objects (21), and the goal (30), zero where nothing is
    asked for. The reward is the number of goals reached in a step, judged by the noisy observation, each once; the
    episode ends with the last of them. An action moves the servos' targets away from the last *observed* positions of
    the arm. Noise is drawn in D4RL's order: with the same seed, D4RL on gym 0.23 draws the same numbers.

    Args:
        goals: names of `GOALS`.
        noise: ratio of the noise to `AMPLITUDES`; D4RL's is 0.1.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, goals: Sequence[str], noise: float = 0.1, **arguments: Any) -> None:
        EzPickle.__init__(self, goals, noise, **arguments)
        self.goals = tuple(goals)
        self.goal = np.zeros(ROBOT + OBJECTS)
        for where, wanted in (GOALS[name] for name in self.goals):
            self.goal[where] = wanted
        self._amplitudes = noise * AMPLITUDES
        observations = gymnasium.spaces.Box(-8.0, 8.0, (2 * (ROBOT + OBJECTS),), np.float64)
        MujocoEnv.__init__(self, str(model_file()), FRAME_SKIP, observations, default_camera_config=CAMERA, **arguments)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ROBOT,), np.float32)
        self.observed = INITIAL.copy()
        self.open_goals = set(self.goals)

    @staticmethod
    @lru_cache(maxsize=1)
    def compile_model() -> Any:
        """The `mujoco.MjModel`, compiled once a process: 56 MB that all environments read and none writes."""
        model = mujoco.MjModel.from_xml_path(str(model_file()))
        model.vis.global_.offwidth = model.vis.global_.offheight = FRAME
        stand = model.body_geomadr[model.body("panda0_link0").parentid[0]]
        model.geom_contype[stand] = model.geom_conaffinity[stand] = 0  # the arm passes what it stands on, as in D4RL
        for body, (inertia, axes) in FACTS["inertias"].items():
            index = model.body(body).id
            assert abs(model.body_iquat[index] @ axes) > 1 - TURN**2, "the axes as compiled are almost these"
            model.body_inertia[index], model.body_iquat[index] = inertia, axes
            boxes = slice(model.body_bvhadr[index], model.body_bvhadr[index] + model.body_bvhnum[index])
            model.bvh_aabb[boxes, 3:] += TURN
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def _observe(self) -> Array:
        """Look at the positions (30,) through noise; the observation (60,)."""
        draw = self.np_random.uniform(-1.0, 1.0, DRAWS)
        seen = np.concatenate([draw[:ROBOT], draw[2 * ROBOT : 2 * ROBOT + OBJECTS]])
        self.observed = self.data.qpos + self._amplitudes * seen
        return np.concatenate([self.observed, self.goal])

    def reset_model(self) -> Array:
        self.open_goals = set(self.goals)
        start = INITIAL.copy()
        mujoco.mj_normalizeQuat(self.model, start)  # MuJoCo 2.1.0 does so by itself
        self.set_state(start, np.zeros(self.model.nv))
        self.np_random.uniform(size=CACHED * DRAWS)
        return self._observe()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """80 ms under an action (9,); `info["completed"]` names all goals reached so far."""
        velocity = SPEED * np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        targets = np.clip(self.observed[:ROBOT] + velocity * self.dt, LOW, HIGH)
        self.do_simulation(targets, self.frame_skip)
        observation = self._observe()
        lacking = {name: self.observed[GOALS[name][0]] - GOALS[name][1] for name in self.open_goals}
        reached = {name for name, difference in lacking.items() if np.linalg.norm(difference) < CLOSE}
        self.open_goals -= reached
        if self.render_mode == "human":
            self.render()
        done = [name for name in self.goals if name not in self.open_goals]
        return observation, float(len(reached)), not self.open_goals, False, {"completed": done}


gymnasium.register("dqlab/Kitchen-v0", entry_point=Kitchen, max_episode_steps=280)
