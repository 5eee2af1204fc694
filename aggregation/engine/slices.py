"""Combine one slice, as the policy of its tensors asks for.

An element's result depends on its own column alone, so that it does not depend on the slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.arithmetic import BadValue
from aggregation.engine.blocks import Slice
from aggregation.engine.passes import Passes
from aggregation.engine.plan import Combination
from aggregation.layout import is_integral
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
    with_parent = (
        work.measured_from_parent
        or work.rule.on_differences
        or work.takes_steps
        # The factors of adapters alternate: one more row is read faster than many short stretches.
        or work.policy_map.has(Policy.FROZEN)
    )
    last: Stretch | None = None
    chosen = _everyone(work) if _reads_everyone(work, selection) else selection.members
    for run in work.policy_map.runs_between(start, stop):
        members = _members_of(work, run, chosen)
        next_one = Stretch(
            start=run.start,
            stop=run.stop,
            members=chosen if members is None else members,
            with_parent=with_parent or members == (),
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


def _everyone(work: Combination) -> tuple[int, ...]:
    return tuple(range(len(work.updates)))


def _reads_everyone(work: Combination, selection: Selection) -> bool:
    """Return whether all updates are read for all elements, although some elements need fewer.

    From object storage, changing the updates at each layer's running statistics costs more than reading
    up to twice the bytes: nothing is read ahead from one stretch to the next.
    """
    few_others = len(work.updates) <= 2 * len(selection.members)
    is_remote = not all(update.source.local for update in work.updates)
    return few_others and is_remote and any(_needs_everyone(work, r) for r in work.policy_map.runs)


def _needs_everyone(work: Combination, run: Run) -> bool:
    """Return whether a run needs all updates, also those that the rule did not select."""
    match run.policy:
        case Policy.FROZEN:
            return True
        case Policy.AVERAGE:
            return work.robust
        case Policy.KEEP:
            return work.parent is None
    return False


def _members_of(work: Combination, run: Run, chosen: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the updates that a run needs; None if it can be read with those of its neighbours."""
    if _needs_everyone(work, run):
        return _everyone(work)
    if run.policy in _OF_PARENT:
        short = (run.stop - run.start) * run.dtype.itemsize < SHORT_BYTES
        return None if short else ()
    return chosen


class SliceResult(NamedTuple):
    """The result of a slice in the model's dtype, the values of updates that keep it from being one, and
    the optimizer's new state if there is one."""

    values: Numbers
    bad: list[BadValue]
    state: Float64s | None = None


def combine_slice(passes: Passes, piece: Slice, selection: Selection) -> SliceResult:
    """Combine a slice of the selected updates, or of all.

    Raises
    ------
    InvalidWeights
        If the parent's values or its state are not finite, or keep the result from being finite.
    """
    members = selection.members
    if piece.rows.shape[0] <= len(members) or _needs_everyone(passes.work, piece.run):
        return _combine_rows(passes, piece, selection)
    piece = piece._replace(rows=np.asarray(piece.rows)[list(members)])
    result = _combine_rows(passes, piece, selection)
    return result._replace(bad=[replace(bad, row=members[bad.row]) for bad in result.bad])


def _combine_rows(passes: Passes, piece: Slice, selection: Selection) -> SliceResult:
    """Combine the rows of a slice, which are those that its policy needs."""
    work, policy = passes.work, piece.run.policy
    if policy in _OF_PARENT and work.parent is not None:
        return _of_parent(passes, piece)
    if policy is not Policy.OPTIMIZE or not work.rule.linear:
        rows = np.asarray(piece.rows)
        bad = arithmetic.bad_values(rows)
        if bad:
            return SliceResult(np.zeros(rows.shape[1], rows.dtype), bad)
        if rows.dtype == np.bool_:  # A client's byte may be neither 0 nor 1.
            rows = rows.view(np.uint8) != 0
        piece = piece._replace(rows=rows)
    with np.errstate(over="ignore", invalid="ignore"):
        stored, state = _combined(work, piece, selection)
        # A value that is not finite makes the sum not finite, and the sum takes a third of the time.
        if state is not None and not (np.isfinite(state.sum()) or np.isfinite(state).all()):
            stored[~np.isfinite(state).all(axis=1)] = np.nan
    return SliceResult(stored, _overflows(passes, piece, stored, selection), state)


def _combined(
    work: Combination, piece: Slice, selection: Selection
) -> tuple[Numbers, Float64s | None]:
    """Return the result in the model's dtype, and the optimizer's new state."""
    base = None if piece.parent is None else piece.parent.astype(np.float64)
    state = piece.state
    match piece.run.policy:
        case Policy.KEEP:
            return _middle(np.asarray(piece.rows)), state
        case Policy.MAX if not work.differences:
            updates = sum(member < len(work.updates) for member in selection.members)
            return np.asarray(np.asarray(piece.rows)[:updates].max(axis=0)), state
        case Policy.MAX:
            combined = np.asarray(piece.rows).astype(np.float64).max(axis=0)
        case Policy.AVERAGE if work.robust:
            combined = arithmetic.median(np.asarray(piece.rows))
        case _:
            combined = _by_rule(work, piece, selection, base)
    if base is not None and work.takes_steps and piece.run.is_measured:
        combined, state = _with_step(work, combined, base, state)
    if base is not None and work.differences:
        combined += base
    if piece.run.non_negative:
        np.maximum(combined, 0.0, out=combined)
    if work.rule.is_private:  # Noise that overflows must not be the fault of an update.
        combined = arithmetic.clipped_to_range(combined, piece.run.dtype)
    return arithmetic.as_stored(combined, piece.run.dtype), state


def _of_parent(passes: Passes, piece: Slice) -> SliceResult:
    """Return the parent's values; an update whose frozen tensors differ from them is bad."""
    piece = passes.with_parent(piece)
    passes.check_parent(piece)
    parent = np.array(piece.parent)
    if piece.run.policy is not Policy.FROZEN:
        return SliceResult(parent, [], piece.state)
    expected = np.zeros_like(parent) if passes.work.differences else parent
    bad = arithmetic.differing_values(np.asarray(piece.rows), expected)
    return SliceResult(parent, bad, piece.state)


def _middle(rows: Numbers) -> Numbers:
    """Return the median of each column in the rows' dtype; of integers, the lower one."""
    if is_integral(rows.dtype):
        middle = (len(rows) - 1) // 2
        return np.ascontiguousarray(np.partition(rows, middle, axis=0)[middle])
    return arithmetic.as_stored(arithmetic.median(rows), rows.dtype)


def _by_rule(
    work: Combination, piece: Slice, selection: Selection, base: Float64s | None
) -> Float64s:
    """Return the rule's result."""
    rows = piece.rows if work.rule.linear else arithmetic.as_floats(np.asarray(piece.rows))
    # Only a linear rule gets rows on demand; `LinearRule.combine` accepts them.
    block = cast(Numbers, rows)
    rule, start = work.rule, piece.start
    if base is None or work.differences:
        return rule.combine_at(start, block, selection)
    if work.bases:  # They are among the rows, with negative coefficients.
        return rule.combine_at(start, block, selection) + base
    if rule.on_differences:
        return rule.combine_at(start, block, selection, base) + base
    return rule.combine_at(start, block, selection)


def _with_step(
    work: Combination, result: Float64s, base: Float64s, state: Float64s | None
) -> tuple[Float64s, Float64s]:
    """Return what the optimizer makes of the rule's result, and its new state.

    If the updates are differences from the parent, both results are such differences as well.
    """
    if not work.differences:
        np.subtract(result, base, out=result)
    step, new_state = work.optimizer.step(
        result, np.empty((len(base), 0)) if state is None else state
    )
    return step if work.differences else np.add(base, step, out=step), new_state


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
