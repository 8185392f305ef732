"""The training loop and what it needs. `plait.train(...)` calls this package: see `plait.api.train`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """A function `plait.train` beside a package `plait.train` would last until the first import of it."""

    def __call__(self, recipe: Any, /, **options: Any) -> Any:
        return import_module("plait.api").train(recipe, **options)


sys.modules[__name__].__class__ = _CallablePackage
