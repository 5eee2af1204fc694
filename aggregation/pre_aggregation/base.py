"""The interface of a step before the rule, and its notation: ``nnm(f=2)``."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TypeVar

import numpy as np

from aggregation.arguments import instantiate, parse_notation
from aggregation.errors import RuleError
from aggregation.registry import import_modules
from aggregation.rules.base import Float64s, Statistics
from aggregation.rules.selection import Mixture


class PreAggregation(ABC):
    """Base of all steps before the rule; a step is a frozen dataclass whose fields are its arguments.

    It turns *n* updates into *m* rows, each a linear combination of the updates' differences from the
    parent (of the updates themselves, if its coefficients add up to one).
    """

    name: str

    #: Whether `mix` needs the inner products of the updates.
    needs_gram: bool = False

    #: Whether `mix` needs the norms of the updates' differences from the parent.
    needs_norms: bool = False

    #: Whether a row's coefficients may add up to less than one, so that a parent is needed.
    on_differences: bool = False

    #: Whether each row comes from one update, so that norms of rows follow from norms of updates.
    one_by_one: bool = False

    #: Whether a row stands for several updates, rather than for the update at its position.
    groups: bool = False

    #: Whether many rows have the same norm, up to rounding, so that a rule cannot compare norms.
    equal_norms: bool = False

    #: Whether `mix` needs a secret seed.
    needs_seed: bool = False

    def rows(self, n: int) -> int:
        """Return the number of rows that ``n`` updates give."""
        return n

    def updates_for(self, rows: int) -> int:
        """Return the fewest updates that give so many rows, and with which the step is defined."""
        return rows

    def max_hostile(self, n: int) -> int:
        """Return how many of ``n`` updates may be hostile, for what the step's docstring states."""
        return n

    @abstractmethod
    def mix(self, statistics: Statistics, seed: bytes) -> Mixture:
        """Return the mixture that makes the rows of the updates."""

    def counts(self, mixture: Mixture, num_examples: Float64s) -> Float64s:
        """Return the count of each row: the mean of the counts of the updates in it."""
        used = (mixture.coefficients != 0.0).astype(np.float64)
        return np.asarray((used * num_examples).sum(axis=1) / used.sum(axis=1), np.float64)

    def __str__(self) -> str:
        arguments = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return f"{self.name}({', '.join(arguments)})"


def mixed_statistics(step: PreAggregation, mixture: Mixture, statistics: Statistics) -> Statistics:
    """Return the statistics of the mixed rows."""
    counts = step.counts(mixture, statistics.num_examples)
    known = Statistics(
        counts,
        num_steps=statistics.num_steps if step.one_by_one else None,
        directions=None if step.groups else statistics.directions,
    )
    if statistics.gram is not None:
        return replace(known, gram=mixture.gram(statistics.gram))
    if statistics.squares is not None and step.one_by_one:
        factors = mixture.coefficients.diagonal() / mixture.divisor
        return replace(known, squares=factors * factors * statistics.squares)
    return known


_REGISTRY: dict[str, type[PreAggregation]] = {}

P = TypeVar("P", bound=type[PreAggregation])


def register_step(step: P) -> P:
    """Register a step under its name."""
    _REGISTRY[step.name] = step
    return step


def known_pre_aggregations() -> dict[str, type[PreAggregation]]:
    """Return the steps by name, sorted."""
    import_modules("aggregation.pre_aggregation")
    return dict(sorted(_REGISTRY.items()))


def create_pre_aggregation(text: object) -> PreAggregation:
    """Return the step of a notation such as ``nnm(f=2)``.

    Raises
    ------
    RuleError
        If the name or an argument is unknown, missing or out of range. The message says what is expected.
    """
    found = parse_notation(text)
    if found is None:
        raise RuleError(f"a step before the rule is written as nnm(f=2); got {text!r}")
    name, arguments = found
    step = _REGISTRY.get(name) or known_pre_aggregations().get(name)
    if step is None:
        known = ", ".join(known_pre_aggregations())
        raise RuleError(f"unknown step before the rule {name!r}; known are {known}")
    return instantiate(step, name, arguments)
