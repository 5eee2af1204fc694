"""Cut a combination into the tasks of a distributed round."""

from __future__ import annotations

from dataclasses import replace

from aggregation.engine.distribution import Capacity, Distribution, Pieces, distribute
from aggregation.engine.measure import measures
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import part_ends
from aggregation.engine.segments import segment_ends_of


def cut_work(
    work: Combination, capacity: Capacity, at_least: int
) -> tuple[Distribution, int] | None:
    """Return the tasks of a combination and the size of its parts, in bytes of the flattened model.

    Returns
    -------
    (Distribution, int) or None
        None if fewer functions than ``at_least`` are needed, or if a segment or a part of all updates takes
        longer to read than a task may last.
    """
    combining, measuring = _pieces_of(work)
    distribution = distribute(capacity, combining, measuring, at_least=at_least)
    if distribution is None:
        return None
    distribution, part_bytes = distribution.with_even_parts(work.layout)
    evenly = replace(combining, count=distribution.parts)
    if not all(capacity.can_read(pieces) for pieces in (evenly, measuring) if pieces):
        return None
    return distribution, part_bytes


def _pieces_of(work: Combination) -> tuple[Pieces, Pieces | None]:
    """Return the parts of a combination, and its segments if the rule measures."""
    of_updates, nbytes = work.update_nbytes, work.layout.nbytes
    with_parent = work.differences or work.rule.on_differences or work.takes_steps
    of_state = work.state.nbytes_to_read if work.state else 0
    combining = Pieces(
        count=len(part_ends(work.layout)), nbytes=of_updates + with_parent * nbytes + of_state
    )
    if not measures(work.rule):
        return combining, None
    with_parent = work.parent is not None
    measuring = Pieces(count=len(segment_ends_of(work)), nbytes=of_updates + with_parent * nbytes)
    return combining, measuring
