"""`import torch`, or numpy, at no cost, for commands that read configurations and never compute.

Plug-in files import them at the top but touch them only inside functions, so a stand-in serves until a function runs.
`importlib.util.LazyLoader` does not: on Python 3.11 the import statement itself looks at `__spec__` and loads it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# The only attributes with two underscores that mean somebody wants the module itself; others are asked for by code that
# looks through all modules, such as `inspect`.
_WORTH_LOADING = frozenset({"__path__", "__version__", "__all__"})


class _Placeholder(ModuleType):
    """Stands in for a module and hands every attribute on to the real one, loaded at the first of them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute not in _WORTH_LOADING:
            raise AttributeError(f"module {self.__name__!r} is not loaded yet and has no {attribute!r}")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def defer_torch() -> None:
    """Let `import torch` succeed without loading it until an attribute is used; nothing when it is loaded already."""
    _defer("torch")


def defer_numpy() -> None:
    """Do the same for numpy, for commands that look at configurations and at nothing else."""
    _defer("numpy")


def _defer(name: str) -> None:
    if name not in sys.modules:
        sys.modules[name] = _Placeholder(name)


def hide_torch() -> None:
    """Take the stand-in out of sight of code that asks whether torch is loaded and then uses it, as matplotlib does.

    Who has the stand-in already can go on with it.
    """
    if isinstance(sys.modules.get("torch"), _Placeholder):
        del sys.modules["torch"]
