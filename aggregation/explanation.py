"""How an aggregate came about, as values and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.engine import Combination, Combined, Resources
from aggregation.engine.comparison import compare
from aggregation.privacy.local import mu_squared_of


@dataclass(frozen=True, kw_only=True)
class AggregationInfo:
    """How an aggregate came about.

    Norms, distances and cosines are over the optimized tensors of floats.

    Parameters
    ----------
    selected : tuple of int
        Positions of the updates that the rule combined.
    scaling_factors : tuple of float
        The weight of each selected update. A rule that works on each coordinate alone, such as the
        median, has equal ones.
    norms : tuple of float
        The Euclidean norm of each update's difference from the parent (without a parent, from the
        updates' median). Infinite if its square overflows float64.
    distances : tuple of tuple of float
        The Euclidean distance of each update from each update.
    cosines : tuple of (float or None), optional
        For each update, the cosine of its difference and the aggregate's difference from the parent:
        what it contributed to the direction. None without a parent.
    max_hostile : int
        How many of the updates may be hostile, with the bound on the result that the rule states.
    optimizer_state : dict of str to array, optional
        The server optimizer's new state, for the next call: float64, with the shape of each tensor and
        one more dimension.
    mu_squared : float, optional
        With differential privacy, what the round adds to the account (`aggregation.privacy.accounting`).
        The other values are not covered by its noise: they are for those who have the updates.
    """

    selected: tuple[int, ...]
    scaling_factors: tuple[float, ...]
    norms: tuple[float, ...]
    distances: tuple[tuple[float, ...], ...]
    cosines: tuple[float | None, ...] | None
    max_hostile: int
    optimizer_state: dict[str, NDArray[np.float64]] | None = None
    mu_squared: float | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each update: JSON-able, with the names of the columns of `table`."""
        weights = dict(zip(self.selected, self.scaling_factors, strict=True))
        return [
            {
                "used": position in weights,
                "weight": weights.get(position),
                "norm": norm,
                "cosine": self.cosines[position] if self.cosines else None,
                **_distances_from_others(position, distances),
            }
            for position, (norm, distances) in enumerate(
                zip(self.norms, self.distances, strict=True)
            )
        ]

    def table(self, names: Sequence[str] | None = None) -> str:
        """Return the updates as a table of text.

        Parameters
        ----------
        names : sequence of str, optional
            Of the updates; by default, their positions.
        """
        rows = self.rows()
        named = names or [str(position) for position in range(len(rows))]
        lines = [
            {"update": name, **{column: _shown(value) for column, value in row.items()}}
            for name, row in zip(named, rows, strict=True)
        ]
        text = "\n".join(_aligned(lines))
        return f"{text}\n{self.max_hostile} of {len(rows)} updates may be hostile"


def explain(
    work: Combination,
    combined: Combined,
    resources: Resources,
    optimizer_state: dict[str, NDArray[np.float64]] | None = None,
) -> AggregationInfo:
    """Return how the result of a combination came about; this reads the updates once more."""
    selection, n = combined.selection, len(work.updates)
    comparison = compare(work, selection, resources)
    selected = [member for member in selection.members if member < n]
    factors = selection.scaling_factors(n)
    return AggregationInfo(
        selected=tuple(selected),
        scaling_factors=tuple(factors[member] for member in selected),
        norms=tuple(comparison.norms.tolist()),
        distances=tuple(map(tuple, comparison.distances.tolist())),
        cosines=comparison.cosines,
        max_hostile=work.rule.max_hostile(n),
        optimizer_state=optimizer_state,
        mu_squared=mu_squared_of(work.rule),
    )


def _distances_from_others(position: int, distances: Sequence[float]) -> dict[str, float | None]:
    others = [distance for other, distance in enumerate(distances) if other != position]
    if not others:
        return {"nearest": None, "median distance": None}
    return {"nearest": min(others), "median distance": float(np.median(others))}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.4g}"


def _aligned(lines: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of a table with a head: names to the left, numbers to the right."""
    columns = list(lines[0])
    widths = {
        column: max(len(column), *(len(line[column]) for line in lines)) for column in columns
    }
    for line in ({column: column for column in columns}, *lines):
        first, *others = columns
        cells = [line[first].ljust(widths[first])]
        cells += [line[column].rjust(widths[column]) for column in others]
        yield "  ".join(cells).rstrip()
