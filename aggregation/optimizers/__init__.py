"""The server optimizers, which take a step from the parent towards the rule's result.

A new one is one new file: its module is imported when it is looked up (`aggregation.registry`).
"""

from aggregation.optimizers.base import (
    NO_OPTIMIZER,
    Optimizer,
    create_optimizer,
    known_optimizers,
    register,
)

__all__ = [
    "NO_OPTIMIZER",
    "Optimizer",
    "create_optimizer",
    "known_optimizers",
    "register",
]
