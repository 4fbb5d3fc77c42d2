"""Where the time of an update goes: `dqlab train --profile`."""
