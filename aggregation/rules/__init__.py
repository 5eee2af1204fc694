"""The aggregation rules.

Importing this package imports every module in it, so that a new rule is one new file.
"""

from aggregation.registry import import_modules
from aggregation.rules.base import (
    LinearRule,
    Rule,
    Selection,
    Statistics,
    create_rule,
    known_rules,
    register,
)

import_modules(__name__)

__all__ = [
    "LinearRule",
    "Rule",
    "Selection",
    "Statistics",
    "create_rule",
    "known_rules",
    "register",
]
