"""D4RL's Franka kitchen on gymnasium-robotics' model; importing this module registers `dqlab/Kitchen-v0`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.utils.ezpickle import EzPickle

from dqlab.envs.physics import Array, CompiledModelEnv, capsule_as_cylinder, rotation_of

CAPSULE_MASSES = {"microdoorroot": 0.02, "kettleroot": 0.02}  # kg of each, by the bodies that have any: the XML's
WEIGHED_GROUPS = range(3, 6)  # groups of geoms that count for inertia (`inertiagrouprange`); the others are for the eye
TURN = 1e-3  # rad; principal axes turn by less when capsules become cylinders
FRAME = 480  # pixels a side of a frame, if no more are asked for; the XML's 2560 x 1920 take seconds in software


def model_file() -> Path:
    """Where gymnasium-robotics keeps the kitchen's XML; the package itself is not imported."""
    spec = find_spec("gymnasium_robotics")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'gymnasium_robotics'")
    return Path(spec.origin).parent / "envs/assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml"


@lru_cache(maxsize=1)
def kitchen_model() -> Any:
    """The `mujoco.MjModel`, compiled once a process: 56 MB that all environments read and none writes."""
    model = mujoco.MjModel.from_xml_path(str(model_file()))
    model.vis.global_.offwidth = model.vis.global_.offheight = FRAME
    stand = model.body_geomadr[model.body("panda0_link0").parentid[0]]
    model.geom_contype[stand] = model.geom_conaffinity[stand] = 0  # the arm passes what it stands on, as in D4RL
    for body, mass in CAPSULE_MASSES.items():
        legacy_capsules(model, body, mass)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def legacy_capsules(model: Any, body: str, mass: float) -> None:
    """Give a body the inertia that MuJoCo 2.1.0 compiled, in place: its capsules are cylinders.

    Where the model fixes a geom's mass (kg), only the shape of its inertia differs; the centre of mass stays.
    """
    index = model.body(body).id
    first, frame = model.body_geomadr[index], rotation_of(model.body_iquat[index])
    tensor = np.diag(model.body_inertia[index])
    for geom in range(first, first + model.body_geomnum[index]):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE and model.geom_group[geom] in WEIGHED_GROUPS:
            r, half, _ = model.geom_size[geom]
            cylinder_mass, cylinder = capsule_as_cylinder(model.geom_size[geom])
            volume, ball = 2.0 * half, 4.0 / 3.0 * r
            rod, caps = volume / (volume + ball), ball / (volume + ball)  # shares of a capsule's mass
            along = rod * r**2 / 2.0 + caps * 0.4 * r**2
            across = rod * (3.0 * r**2 + 4.0 * half**2) / 12.0
            across += caps * (0.4 * r**2 + half**2 + 0.75 * r * half)
            change = cylinder / cylinder_mass - np.array([across, across, along])
            rotation = frame.T @ rotation_of(model.geom_quat[geom])
            tensor += mass * rotation @ np.diag(change) @ rotation.T
    # the boxes that bound the geoms are stored in the inertial frame: it may turn by 1e-4, but not permute its axes
    values, axes = (found[..., ::-1] for found in np.linalg.eigh(tensor))
    axes = axes * np.sign(np.diag(axes))
    assert np.abs(axes - np.eye(3)).max() < TURN, "the principal axes kept their order"
    mujoco.mju_mat2Quat(model.body_iquat[index], (frame @ axes).flatten())
    model.body_inertia[index] = values
    boxes = slice(model.body_bvhadr[index], model.body_bvhadr[index] + model.body_bvhnum[index])
    model.bvh_aabb[boxes, 3:] += TURN  # they are below 1 m


ROBOT, OBJECTS = 9, 21  # positions (qpos) of the arm with its fingers, then those of what it moves
FRAME_SKIP = 40  # steps of 2 ms a control step: 12.5 Hz
SPEED = 2.0  # rad/s (fingers: m/s) that an action of 1 asks for
LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0])  # of the position servos' targets: rad, fingers m
HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04])
AMPLITUDES = np.repeat([0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1])
"""Amplitudes of the uniform noise on each position (30,), for a ratio of 1."""
INITIAL = np.array(
    [
        *(0.148388023, -1.76848573, 1.84390296, -2.4768576, 0.260252026, 0.712533105, 1.59515394),
        *(0.0479267505, 0.0371350919),
        *(-2.6627985e-4, -5.18043486e-5, 3.1287722e-5, -4.51199853e-5),
        *(-3.90842156e-6, -4.22629655e-5, 6.28065475e-5, 4.04984708e-5),
        *(4.62730939e-4, -2.26906415e-4, -4.65501369e-4, -6.44129196e-3, -1.77048263e-3, 1.08009684e-3),
        *(-0.26939744, 0.350383255, 1.61944683, 1.00618764, 4.0639512e-3, -6.62095997e-3, -2.68278933e-4),
    ]
)
"""Positions (30,) at the start of every episode, at rest."""
GOALS: dict[str, tuple[slice, tuple[float, ...]]] = {
    "bottom burner": (slice(11, 13), (-0.88, -0.01)),
    "top burner": (slice(15, 17), (-0.92, -0.01)),
    "light switch": (slice(17, 19), (-0.69, -0.05)),
    "slide cabinet": (slice(19, 20), (0.37,)),
    "hinge cabinet": (slice(20, 22), (0.0, 1.45)),
    "microwave": (slice(22, 23), (-0.75,)),
    "kettle": (slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
"""What can be asked for: which positions, and what they should be."""
CLOSE = 0.3  # a goal is reached when its observed positions are nearer to it than this
DRAWS = 2 * (ROBOT + OBJECTS)  # of an observation: D4RL has noise on the velocities too, although nobody sees them
CACHED = 5  # observations that D4RL makes at a reset before the first one that is seen
CAMERA = {"distance": 2.2, "azimuth": 70.0, "elevation": -35.0, "lookat": np.array([-0.2, 0.5, 2.0])}


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

    def compile_model(self) -> Any:
        return kitchen_model()

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
