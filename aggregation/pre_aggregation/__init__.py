"""Steps before the rule: they mix or shorten the updates, so that a robust rule withstands more attacks.

Importing this package imports every module in it, so that a new step is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from aggregation.pre_aggregation.base import (
    PreAggregation,
    create_pre_aggregation,
    known_pre_aggregations,
)
from aggregation.pre_aggregation.rule import (
    PreAggregatedRule,
    build_rule,
    create_steps,
    needs_seed,
    new_seed,
    rule_from_json,
    rule_to_json,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "PreAggregatedRule",
    "PreAggregation",
    "build_rule",
    "create_pre_aggregation",
    "create_steps",
    "known_pre_aggregations",
    "needs_seed",
    "new_seed",
    "rule_from_json",
    "rule_to_json",
]
