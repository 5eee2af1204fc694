"""The server optimizers, which take a step from the parent towards the rule's result.

Importing this package imports every module in it, so that a new optimizer is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from aggregation.optimizers.base import (
    NO_OPTIMIZER,
    Optimizer,
    create_optimizer,
    known_optimizers,
    register,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "NO_OPTIMIZER",
    "Optimizer",
    "create_optimizer",
    "known_optimizers",
    "register",
]
