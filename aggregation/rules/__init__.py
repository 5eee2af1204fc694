"""The aggregation rules.

Importing this package imports every module in it, so that a new rule is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from aggregation.rules.base import (
    LinearRule,
    Rule,
    Selection,
    Statistics,
    create_rule,
    known_rules,
    register,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "LinearRule",
    "Rule",
    "Selection",
    "Statistics",
    "create_rule",
    "known_rules",
    "register",
]
