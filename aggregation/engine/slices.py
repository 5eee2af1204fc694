"""Combine one slice: the rule, then what the policy of the slice's tensors asks for, then rounding."""

from __future__ import annotations

from typing import cast

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.arithmetic import BadValue
from aggregation.engine.blocks import Slice
from aggregation.engine.passes import Passes
from aggregation.rules import Selection
from aggregation.rules.base import Numbers


def combine_slice(
    passes: Passes, piece: Slice, selection: Selection
) -> tuple[Numbers, list[BadValue]]:
    """Return the result in the model's dtype, and the values that keep it from being finite.

    Raises
    ------
    InvalidWeights
        If the parent's values keep it from being finite.
    """
    work = passes.work
    rows, dtype = piece.rows, piece.rows.dtype
    if not work.rule.linear:
        rows = np.asarray(rows)
        bad = arithmetic.bad_values(rows)
        if bad:
            return np.zeros(rows.shape[1], dtype), bad
        rows = arithmetic.as_floats(rows)
    base = None if piece.parent is None else piece.parent.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        # Only a linear rule gets rows on demand; `LinearRule.combine` accepts them.
        block = cast(Numbers, rows)
        combined = work.rule.combine(block, selection, None if work.differences else base)
        if base is not None:
            combined += base
        stored = arithmetic.as_stored(combined, dtype)
    if np.isfinite(arithmetic.as_floats(stored)).all():
        return stored, []
    passes.check_parent(piece)
    rows = np.asarray(rows)
    bad = arithmetic.bad_values(rows)
    return stored, bad or arithmetic.overflowing_values(rows, stored, selection.coefficients)
