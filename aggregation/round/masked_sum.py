"""The sum of masked updates modulo 2**32, as a rule of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics
from aggregation.rules.sums import GROUP, Rows


class MaskedSum(LinearRule):
    """The sum of all rows modulo 2**32. It has no name: no model can choose it."""

    name = ""
    robust = False

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(range(len(statistics.num_examples)))

    def combine(
        self, block: Rows | NDArray[Any], selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        total = np.zeros(block.shape[1], np.uint32)
        for first in range(0, block.shape[0], GROUP):
            for row in block[first : first + GROUP]:
                np.add(total, row, out=total)
        return total.astype(np.float64)
