"""Measure the updates before the rule selects: their norms, or their inner products."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from aggregation.engine.outcome import Checkpoint, Measuring
from aggregation.engine.passes import Passes
from aggregation.engine.plan import Combination
from aggregation.engine.segments import (
    OVERSIZED,
    Centre,
    measure_segments,
    no_products,
    squares,
)
from aggregation.errors import UpdatesRejected
from aggregation.rules import Rule, Selection, Statistics
from aggregation.rules.base import Float64s

#: If the squared distance of two updates is smaller than this share of their squared distances from
#: the centre, it loses too many digits to cancellation, and another centre is needed.
CANCELLATION_RATIO = 2.0**-16


def select(
    passes: Passes,
    resume: Checkpoint | None = None,
    checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> tuple[Selection, Sequence[float] | None]:
    """Measure what the rule needs, and let it select.

    Parameters
    ----------
    passes : Passes
    resume : Checkpoint, optional
        The last checkpoint of an earlier call.
    checkpoint : callable
        Called with the progress after each segment of the model.

    Returns
    -------
    selection : Selection
    norms : sequence of float, optional
        See `aggregation.engine.outcome.Combined`.
    """
    work = passes.work
    known = work.base_statistics()
    if not measures(work.rule):
        return work.select(known), None
    saved = resume["measuring"] if resume else None
    norms = resume["norms"] if resume else None

    def save(measuring: Measuring) -> None:
        checkpoint(
            Checkpoint(measuring=measuring, norms=norms, selection=None, progress=None, state=None)
        )

    if norms is None:
        centre = default_centre(work)
        statistics = statistics_from(work.rule, known, measure(passes, centre, saved, save))
        norms = np.sqrt(statistics.squared_norms).tolist()
        if not must_recentre(work.rule, centre, statistics):
            return with_cosines(work.select(statistics), centre, statistics), norms
        saved = None
        del statistics  # Its matrices are as large as those that are computed now.
    statistics = statistics_from(work.rule, known, measure(passes, Centre.MEDIAN, saved, save))
    return work.select(statistics), norms


def measures(rule: Rule) -> bool:
    """Return whether the rule needs the updates to be measured before it selects."""
    return rule.needs_gram or rule.needs_norms


def statistics_from(rule: Rule, known: Statistics, products: Float64s) -> Statistics:
    """Return what the rule selects by, given the products over the whole model."""
    if rule.needs_gram:
        return replace(known, gram=products)
    return replace(known, squares=products)


def with_cosines(selection: Selection, centre: Centre, statistics: Statistics) -> Selection:
    """Return the selection with the updates' cosines, if their differences from the parent are known."""
    if statistics.gram is None or centre is Centre.MEDIAN:
        return selection
    return selection.with_cosines(statistics.gram)


def must_recentre(rule: Rule, centre: Centre, statistics: Statistics) -> bool:
    """Return whether the updates must be measured again, around their median.

    They must if the rule accepts another centre, and distances from this one lost too many digits.
    """
    any_centre = rule.needs_gram and not rule.on_differences
    return any_centre and centre is not Centre.MEDIAN and _would_cancel(statistics)


def default_centre(work: Combination) -> Centre:
    """Return the parent if there is one, which for updates that are differences is the origin."""
    if work.differences:
        return Centre.ORIGIN
    return Centre.MEDIAN if work.parent is None else Centre.PARENT


@np.errstate(over="ignore", invalid="ignore")  # What is not finite is rejected.
def measure(
    passes: Passes,
    centre: Centre,
    saved: Measuring | None = None,
    save: Callable[[Measuring], None] = lambda measuring: None,
) -> Float64s:
    """Return the products of the updates' differences from the centre, over all measured tensors.

    They are the inner products, shape (n, n), or the squared norms, shape (n,): what the rule needs.

    Raises
    ------
    UpdatesRejected
        If values are not finite, or too large to be squared.
    InvalidWeights
        If that is so of the parent's values.
    OutOfTime
    """
    total = no_products(passes.work.rule, len(passes.work.updates))
    start, running = 0, None
    if saved:
        start = saved["next_element"]
        total = _decode(saved["products"], total.shape)
        running = _decode(saved["running"], total.shape) if saved["running"] else None

    def interrupted(next_element: int, running: Float64s) -> None:
        save(_measuring(next_element, total, running))

    segments = measure_segments(
        passes, centre, start, passes.work.layout.size, running, interrupted
    )
    for end, segment in segments:
        np.add(total, segment, out=total)
        save(_measuring(end, total))
    return rounded_products(total)


def rounded_products(total: Float64s) -> Float64s:
    """Return the products over the whole model, rounded to 40 significant bits.

    Raises
    ------
    UpdatesRejected
        If they overflowed.
    """
    overflowed = np.flatnonzero(~np.isfinite(squares(total)))
    if overflowed.size:
        raise UpdatesRejected({int(row): OVERSIZED for row in overflowed})
    return _rounded(total)


def _decode(text: str, shape: tuple[int, ...]) -> Float64s:
    return np.frombuffer(b64decode(text), "<f8").reshape(shape).copy()


def _encode(products: Float64s) -> str:
    """Return products as base64, which takes half the space of JSON numbers."""
    return b64encode(np.ascontiguousarray(products, "<f8").data).decode()


def _measuring(next_element: int, products: Float64s, running: Float64s | None = None) -> Measuring:
    return Measuring(
        next_element=next_element,
        products=_encode(products),
        running=None if running is None else _encode(running),
    )


def _would_cancel(statistics: Statistics) -> bool:
    """Return whether two updates are much closer to each other than to the centre.

    The rounded products (`_rounded`) then lose their distance to cancellation.
    """
    norms = statistics.squared_norms
    bounds = np.add.outer(norms, norms)
    bounds *= CANCELLATION_RATIO
    close = statistics.squared_distances < bounds
    np.fill_diagonal(close, False)
    return bool(close.any())


def _rounded(gram: Float64s) -> Float64s:
    """Round to 40 significant bits.

    Processors differ in the last bits of a product, and that must not decide between updates or
    change a scaling factor.
    """
    mantissa, exponent = np.frexp(gram)
    np.ldexp(mantissa, 40, out=mantissa)
    np.rint(mantissa, out=mantissa)
    exponent -= 40
    return np.asarray(np.ldexp(mantissa, exponent, out=mantissa), np.float64)
