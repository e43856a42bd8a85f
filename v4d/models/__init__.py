"""Networks. Imports torch when a network is asked for, not before: a config is checked without it."""

import importlib
from typing import TYPE_CHECKING, Any

from v4d.models.registry import MODELS, Architecture, create_model  # noqa: F401

if TYPE_CHECKING:
    from v4d.models.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Take what is asked for from `public`, which imports torch (PEP 562)."""
        return getattr(importlib.import_module(f"{__name__}.public"), name)
