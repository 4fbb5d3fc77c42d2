"""Plugins: packages that register parts, found by the entry-point group `dqlab.plugins` or named by the user."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from dqlab.configuration import import_plugin
from dqlab.errors import ConfigError

GROUP = "dqlab.plugins"


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Import every installed plugin, then the named modules.

    An installed plugin that fails is reported by name and skipped: it must not break what does not use it.

    Raises:
        ConfigError: a named module cannot be imported, or two plugins claim one name.
    """
    importlib.import_module("dqlab.parts")
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except ConfigError:
            raise
        except Exception as error:  # a plugin may fail in any way
            print(f"dqlab: warning: plugin '{entry.name}' ({entry.value}) is skipped: {error!r}", file=sys.stderr)
    for module in modules:
        import_plugin(module, "--plugin")
