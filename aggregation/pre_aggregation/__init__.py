"""Steps before the rule: they mix or shorten the updates, so that a robust rule withstands more attacks.

A new step is one new file: its module is imported when it is looked up (`aggregation.registry`).
"""

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
