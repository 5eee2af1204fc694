"""The error of the laboratory."""

from __future__ import annotations

from aggregation.errors import AggregationError


class BadArgument(AggregationError, ValueError):
    """An argument of a simulation, or what a function of its caller returned, cannot be used."""
