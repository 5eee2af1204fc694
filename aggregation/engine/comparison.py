"""Compare the updates of a combination with each other, to explain what its rule did."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from aggregation.engine.measure import default_centre, measure, must_recentre
from aggregation.engine.passes import Passes
from aggregation.engine.plan import DEFAULT_RESOURCES, Combination, Resources
from aggregation.engine.segments import Centre
from aggregation.errors import InvalidWeights, UpdatesRejected
from aggregation.optimizers import NO_OPTIMIZER
from aggregation.rules import LinearRule, Selection, Statistics
from aggregation.rules.base import Float64s


@dataclass(frozen=True, eq=False)
class Comparison:
    """The norms, distances and cosines of updates, over the optimized tensors of floats.

    Parameters
    ----------
    norms : (n,) float64
        The Euclidean norm of each update's difference from the parent (without a parent, from the
        updates' median). Infinite for an update that is too large to be squared.
    distances : (n, n) float64
        The Euclidean distance of each pair of updates.
    cosines : tuple of (float or None), optional
        See `aggregation.rules.Selection.with_cosines`. None without a parent, and if an update is too
        large to be squared.
    """

    norms: Float64s
    distances: Float64s
    cosines: tuple[float | None, ...] | None


def compare(
    work: Combination, selection: Selection, resources: Resources = DEFAULT_RESOURCES
) -> Comparison:
    """Compare the updates of a combination whose result was computed; this reads them once more.

    Parameters
    ----------
    work : Combination
    selection : Selection
        What its rule selected.
    resources : Resources
    """
    n = len(work.updates)
    measurable = list(range(n))
    while measurable:
        try:
            gram, apart = _measured(work, measurable, resources)
        except UpdatesRejected as error:
            measurable = [each for row, each in enumerate(measurable) if row not in error.reasons]
        except InvalidWeights:  # The parent is too large, or not finite: a mean never reads it.
            measurable = []
        else:
            break
    norms, distances = np.full(n, np.inf), np.full((n, n), np.inf)
    np.fill_diagonal(distances, 0.0)
    if not measurable:
        return Comparison(norms, distances, None)
    norms[measurable] = np.sqrt(np.diagonal(gram))
    distances[np.ix_(measurable, measurable)] = np.sqrt(apart)
    cosines = selection.cosines
    if cosines is None and work.parent and not work.bases and len(measurable) == n:
        cosines = selection.with_cosines(gram).cosines
    return Comparison(norms, distances, cosines)


def _measured(
    work: Combination, positions: list[int], resources: Resources
) -> tuple[Float64s, Float64s]:
    """Return the inner products and the squared distances of some of the updates."""
    measured = replace(
        work,
        rule=_ALL_PAIRS,
        updates=[work.updates[position] for position in positions],
        num_examples=[1.0] * len(positions),
        num_steps=None,
        directions=None,
        discounts=None,
        bases=(),
        base_of=(),
        optimizer=NO_OPTIMIZER,
        optimizer_state=None,
    )
    with ExitStack() as stack:
        passes = Passes(measured, resources, stack, lambda: False, lambda count: None)
        centre = default_centre(measured)
        gram = measure(passes, centre)
        statistics = replace(measured.base_statistics(), gram=gram)
        if must_recentre(_ALL_PAIRS, centre, statistics):
            statistics = replace(statistics, gram=measure(passes, Centre.MEDIAN))
    return gram, statistics.squared_distances


@dataclass(frozen=True)
class _AllPairs(LinearRule):
    """Makes the engine compare all pairs of updates."""

    name = "all_pairs"
    needs_gram = True

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(range(len(statistics.num_examples)))


_ALL_PAIRS = _AllPairs()
