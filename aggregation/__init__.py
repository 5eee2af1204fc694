"""Federated aggregation: layouts, formats, rules, the chunk engine, and the round.

Pure: numpy, ml_dtypes and the standard library; no Django, no AWS, no clock, no logging.
"""

from typing import TYPE_CHECKING, Any

from aggregation.errors import AggregationError, UpdateRejected, UpdatesRejected

if TYPE_CHECKING:
    from aggregation.api import AggregationInfo, aggregate

__all__ = ["AggregationError", "AggregationInfo", "UpdateRejected", "UpdatesRejected", "aggregate"]


def __getattr__(name: str) -> Any:
    # The import is deferred, so that importing one module does not import the engine and numpy.
    if name in ("AggregationInfo", "aggregate"):
        from aggregation import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
