"""Staleness: how much an update counts that was trained from an older aggregate than the latest."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aggregation.arguments import instantiate, number
from aggregation.errors import RuleError
from aggregation.rules import Rule


class Staleness(ABC):
    """The discount of late updates. Its fields are its arguments."""

    name: ClassVar[str]

    @abstractmethod
    def factor(self, rounds: int) -> float:
        """Return the share of its weight that an update counts, from 0 to 1.

        Parameters
        ----------
        rounds : int
            How many aggregates were published since the one that it was trained from.
        """


@dataclass(frozen=True)
class NoDiscount(Staleness):
    """A late update counts like any other, and its weights are averaged as they are."""

    name = ""

    def factor(self, rounds: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Polynomial(Staleness):
    """An update that is ``s`` rounds old counts ``(1 + s) ** -a`` of its weight.

    Nguyen et al., *Federated Learning with Buffered Asynchronous Aggregation*, AISTATS 2022
    (arXiv 2106.06639), section 5; the function is that of Xie et al., *Asynchronous Federated
    Optimization*, 2019 (arXiv 1903.03934), section 5.2. The sum is divided by the weights before the
    discount: otherwise equal discounts would cancel.

    Parameters
    ----------
    a : float
        0 discounts nothing.
    """

    a: float = 0.5
    name = "polynomial"

    def __post_init__(self) -> None:
        number("a", self.a, at_least=0, at_most=10)

    def factor(self, rounds: int) -> float:
        # Powers may differ in the last bits between processors; 40 bits of a share are the same on all.
        mantissa, exponent = math.frexp((1 + rounds) ** -float(self.a))
        return math.ldexp(round(math.ldexp(mantissa, 40)), exponent - 40)


_KNOWN: dict[str, type[Staleness]] = {kind.name: kind for kind in (NoDiscount, Polynomial)}


def known_discounts() -> dict[str, type[Staleness]]:
    """Return the discounts by name, without the empty name for none."""
    return {name: kind for name, kind in _KNOWN.items() if name}


def create_staleness(name: str, arguments: Mapping[str, Any] | None = None) -> Staleness:
    """Return the discount of that name; without a name, one that discounts nothing.

    Raises
    ------
    RuleError
        If the name or an argument is unknown or out of range.
    """
    kind = _KNOWN.get(name)
    if kind is None:
        raise RuleError(f"unknown staleness {name!r}; known are {', '.join(known_discounts())}")
    return instantiate(kind, name or "a model without staleness", arguments or {})


def check_discountable(rule: Rule, staleness: Staleness) -> None:
    """Refuse a discount for a rule that is not a plain mean.

    Raises
    ------
    RuleError
    """
    measures = rule.needs_gram or rule.needs_norms
    if staleness.name and (measures or not rule.linear):
        raise RuleError(
            f"{rule.name} compares updates with each other, so that a discount for late ones would "
            "change which are used: take weighted_mean, unweighted_mean or normalized_mean"
        )
