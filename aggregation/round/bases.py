"""What late updates were trained from: each is compared with its own base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aggregation.errors import InvalidWeights
from aggregation.formats import Spool
from aggregation.layout import layout_difference
from aggregation.round.values import ClaimedUpdate
from aggregation.staleness import Staleness
from aggregation.weights import Weights


class Bases:
    """The aggregates that the updates of a claim were trained from.

    Only those of a model with a discount for late updates, and whose updates are weights: a difference
    needs no base.

    Parameters
    ----------
    open_base : callable
        See `aggregation.round.port.RoundConnector.open_base`.
    staleness : Staleness
    differences : bool
        Whether the updates are differences.
    location : str or None
        Of the parent.
    parent : Weights or None

    Attributes
    ----------
    rejected : dict of int to str
        Ids of updates whose base cannot be used, with the reasons.
    """

    def __init__(
        self,
        open_base: Callable[[str, Spool | None], Weights],
        *,
        staleness: Staleness,
        differences: bool,
        location: str | None,
        parent: Weights | None,
    ) -> None:
        self._open_base = open_base
        self._staleness = staleness
        self._differences = differences
        self._location = location
        self._parent = parent
        self._opened: dict[str, Weights] = {}
        self.rejected: dict[int, str] = {}
        if parent is not None and location is not None:
            self._opened[location] = parent

    def open(self, updates: Sequence[ClaimedUpdate], spool: Spool | None) -> None:
        """Open the bases of late updates; each is opened once.

        Raises
        ------
        NeedsSpool
            If one must be unpacked and ``spool`` is None.
        """
        if not self._staleness.name or self._differences:
            return
        for update in updates:
            if not update.rounds_late or update.base in self._opened:
                continue
            try:
                self._open(update, spool)
            except InvalidWeights as error:
                self.rejected[update.id] = f"what it was trained from cannot be used: {error}"

    def _open(self, update: ClaimedUpdate, spool: Spool | None) -> None:
        if update.base is None:
            raise InvalidWeights("the model has no initial weights, and it names no base-aggregate")
        base = self._open_base(update.base, spool)
        if self._parent is not None:
            difference = layout_difference(self._parent.layout, base.layout)
            if difference:
                raise InvalidWeights(difference)
        self._opened[update.base] = base

    def terms(self, updates: Sequence[ClaimedUpdate]) -> dict[str, Any]:
        """Return the arguments of a `Combination` that discount the late ones of some updates."""
        if not any(update.rounds_late for update in updates) or not self._staleness.name:
            return {}
        discounts = [self._staleness.factor(update.rounds_late) for update in updates]
        if self._differences or self._location is None:
            return {"discounts": discounts}
        locations = [
            update.base if update.rounds_late and update.base else self._location
            for update in updates
        ]
        distinct = list(dict.fromkeys(locations))
        return {
            "discounts": discounts,
            "bases": [self._opened[location] for location in distinct],
            "base_of": [distinct.index(location) for location in locations],
        }


def stated_steps(updates: Sequence[ClaimedUpdate]) -> list[int] | None:
    """Return the updates' numbers of steps; None unless all state them."""
    steps = [update.num_steps for update in updates if update.num_steps is not None]
    return steps if len(steps) == len(updates) else None
