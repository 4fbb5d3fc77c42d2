"""What every component of a kind must do, for a plugin's own tests; each raises AssertionError with what is wrong.

from dqlab.testing import check, check_environment, check_plugin
check("noise_schedule", "my_schedule")
check_plugin("my_plugin")        # all that an installed package registers
check_environment("my_module:MyEnv-v0")     # before a policy is evaluated there
"""

from dqlab.tools.conformance.environments import check_environment
from dqlab.tools.conformance.made import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.tools.conformance.suite import CHECKS, ComponentReport, check, check_plugin, examine

__all__ = ["BATCH", "CHECKS", "DIMS", "ComponentReport", "check", "check_environment", "check_plugin", "examine"]
__all__ += ["make_batch", "make_noise", "one_noise"]
