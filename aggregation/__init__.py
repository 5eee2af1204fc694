"""Federated aggregation: layouts, formats, rules, the chunk engine, and the round.

Pure: numpy, ml_dtypes and the standard library; no Django, no AWS, no clock, no logging.
"""

from typing import TYPE_CHECKING, Any

from aggregation.errors import AggregationError, UpdateRejected, UpdatesRejected

if TYPE_CHECKING:
    from aggregation.api import aggregate

__all__ = ["AggregationError", "UpdateRejected", "UpdatesRejected", "aggregate"]


def __getattr__(name: str) -> Any:
    # Whoever imports one module of the package does not pay for the engine and numpy.
    if name == "aggregate":
        from aggregation.api import aggregate

        return aggregate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
