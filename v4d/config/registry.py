"""What a config can name beyond its own keys: sources of videos and architectures of networks.

`v4d.datasets` and `v4d.models` fill these tables when they are imported, a user's plugin adds to them. So the
config knows neither networks nor data sets, and its checks know both.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterable
from typing import Any

from v4d.errors import V4DError

SOURCES: dict[str, Any] = {}
"""By `dataset.source`: a `v4d.datasets.DataSource`; its `Options` are the keys of `dataset.<source>`."""
MODELS: dict[str, Any] = {}
"""By `models.<model>.arch`: a `v4d.models.Architecture`; its `Options` are keys beside `arch`."""
BACKENDS: dict[str, Any] = {}
"""By `tracking.backend`: makes a `v4d.tracking.base.Backend`; `none` tracks nothing."""
BUILT_IN = ("v4d.datasets", "v4d.models.registry", "v4d.tracking")
PLUGINS = "v4d.plugins"
"""The group of entry points by which an installed package adds sources and networks."""


def fill(plugins: Iterable[str] = ()) -> None:
    """Import what fills the tables: the built-in rooms, installed plugins, and the modules of `plugins:`.

    Raises:
        V4DError: a plugin cannot be imported; the message says why.
    """
    _fill_installed()
    for module in plugins:
        _import(module, "config: plugins")


def named(table: dict[str, Any], name: Any, where: str) -> Any:
    """The entry of a name.

    Raises:
        V4DError: there is none; the message names the key `where` and those that there are.
    """
    if not isinstance(name, str) or name not in table:
        raise V4DError(f"config: {where}: {name!r} is not one of {', '.join(table)}")
    return table[name]


@functools.cache
def _fill_installed() -> None:
    for module in BUILT_IN:
        importlib.import_module(module)
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        _import(entry.value.partition(":")[0], f"plugin {entry.name!r} (an installed package)")


def _import(module: str, where: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        why = f"{type(error).__name__}: {error}"
        raise V4DError(f"{where}: cannot import {module!r}: {' '.join(why.split())}") from error
