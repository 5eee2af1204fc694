"""Combine one slice, as the policy of its tensors asks for.

An element's result depends on its own column alone, so that it does not depend on the slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.arithmetic import BadValue
from aggregation.engine.blocks import Slice
from aggregation.engine.passes import Passes
from aggregation.engine.plan import Combination
from aggregation.policies import Policy, Run
from aggregation.rules import Selection
from aggregation.rules.base import Float64s, Numbers

#: Policies under which the result has the parent's values, if there is a parent.
_OF_PARENT = (Policy.KEEP, Policy.EXCLUDE, Policy.FROZEN)

#: Bytes of a shorter run of tensors that are not combined are read like those around it: the reads of
#: one more pass take longer than the bytes of all updates.
SHORT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Elements ``start`` to ``stop`` of a model, for which the same weights objects are read.

    Parameters
    ----------
    start, stop : int
    members : sequence of int
        Positions of the updates.
    with_parent : bool
    """

    start: int
    stop: int
    members: Sequence[int]
    with_parent: bool


def stretches(work: Combination, selection: Selection, start: int, stop: int) -> Iterator[Stretch]:
    """Yield the stretches of a range: most elements need the selected updates, some need all or none."""
    with_parent = work.measured_from_parent or work.rule.on_differences
    last: Stretch | None = None
    for run in work.policy_map.runs_between(start, stop):
        members = _members_of(work, selection, run)
        next_one = Stretch(
            start=run.start,
            stop=run.stop,
            members=selection.members if members is None else members,
            with_parent=with_parent or run.policy is Policy.FROZEN or members == (),
        )
        if last and (
            members is None or replace(next_one, start=last.start, stop=last.stop) == last
        ):
            last = replace(last, stop=run.stop)
            continue
        if last:
            yield last
        last = next_one
    if last:
        yield last


def _members_of(work: Combination, selection: Selection, run: Run) -> tuple[int, ...] | None:
    """Return the updates that a run needs; None if it can be read with those of its neighbours."""
    everyone = tuple(range(len(work.updates)))
    match run.policy:
        case Policy.FROZEN:
            return everyone
        case Policy.AVERAGE if work.robust:
            return everyone
        case Policy.KEEP | Policy.EXCLUDE if work.parent is None:
            return everyone
        case Policy.KEEP | Policy.EXCLUDE:
            short = (run.stop - run.start) * run.dtype.itemsize < SHORT_BYTES
            return None if short else ()
    return selection.members


def combine_slice(
    passes: Passes, piece: Slice, selection: Selection
) -> tuple[Numbers, list[BadValue]]:
    """Return the result in the model's dtype, and the values of updates that keep it from being one.

    Raises
    ------
    InvalidWeights
        If the parent's values are not finite, or keep the result from being finite.
    """
    work, policy = passes.work, piece.run.policy
    if policy in _OF_PARENT and work.parent is not None:
        return _of_parent(passes, piece)
    rows = piece.rows
    if policy is not Policy.OPTIMIZE or not work.rule.linear:
        rows = np.asarray(rows)
        bad = arithmetic.bad_values(rows)
        if bad:
            return np.zeros(rows.shape[1], rows.dtype), bad
    base = None if piece.parent is None else piece.parent.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        match policy:
            case Policy.KEEP:
                return _middle(np.asarray(rows)), []
            case Policy.MAX if not work.differences:
                updates = sum(member < len(work.updates) for member in selection.members)
                return np.asarray(np.asarray(rows)[:updates].max(axis=0)), []
            case Policy.MAX:
                combined = np.asarray(rows).astype(np.float64).max(axis=0)
            case Policy.AVERAGE if work.robust:
                combined = arithmetic.median(np.asarray(rows))
            case _:
                combined = _by_rule(passes, piece, selection, base)
        if base is not None and work.differences:
            combined += base
        if piece.run.non_negative:
            np.maximum(combined, 0.0, out=combined)
        stored = arithmetic.as_stored(combined, piece.run.dtype)
    return stored, _overflows(passes, piece, stored, selection)


def _of_parent(passes: Passes, piece: Slice) -> tuple[Numbers, list[BadValue]]:
    """Return the parent's values; an update whose frozen tensors differ from them is bad."""
    piece = passes.with_parent(piece)
    passes.check_parent(piece)
    parent = np.array(piece.parent)
    if piece.run.policy is not Policy.FROZEN:
        return parent, []
    expected = np.zeros_like(parent) if passes.work.differences else parent
    return parent, arithmetic.differing_values(np.asarray(piece.rows), expected)


def _middle(rows: Numbers) -> Numbers:
    """Return the median of each column in the rows' dtype; of integers, the lower one."""
    if rows.dtype.kind in "iu":
        middle = (len(rows) - 1) // 2
        return np.ascontiguousarray(np.partition(rows, middle, axis=0)[middle])
    return arithmetic.as_stored(arithmetic.median(rows), rows.dtype)


def _by_rule(passes: Passes, piece: Slice, selection: Selection, base: Float64s | None) -> Float64s:
    """Return the rule's result."""
    work = passes.work
    rows = piece.rows if work.rule.linear else arithmetic.as_floats(np.asarray(piece.rows))
    # Only a linear rule gets rows on demand; `LinearRule.combine` accepts them.
    block = cast(Numbers, rows)
    if base is None or work.differences:
        return work.rule.combine(block, selection)
    if work.bases:  # They are among the rows, with negative coefficients.
        return work.rule.combine(block, selection) + base
    if work.rule.on_differences:
        return work.rule.combine(block, selection, base) + base
    return work.rule.combine(block, selection)


def _overflows(
    passes: Passes, piece: Slice, stored: Numbers, selection: Selection
) -> list[BadValue]:
    """Return the values that keep a result from being finite.

    Raises
    ------
    InvalidWeights
        If they are the parent's.
    """
    if np.isfinite(arithmetic.as_floats(stored)).all():
        return []
    passes.check_parent(piece)
    rows = np.asarray(piece.rows)
    equal = [1.0] * len(rows)
    coefficients = selection.coefficients if len(selection.members) == len(rows) else equal
    return arithmetic.bad_values(rows) or arithmetic.overflowing_values(rows, stored, coefficients)
