"""Check the initial weights of a model before any client gets them."""

from __future__ import annotations

import numpy as np
from django.conf import settings

from aggregation.engine.arithmetic import bad_values
from aggregation.engine.reader import BlockReader
from aggregation.errors import InvalidWeights, UpdateRejected
from aggregation.formats import Spool, format_of, open_weights
from aggregation.policies import OPTIMIZE_ALL, PolicyMap
from aggregation.sources import ByteSource
from aggregation.weights import Weights

#: Elements that are checked at a time.
STEP = 1 << 20


def check_initial_weights(source: ByteSource, name: str) -> str:
    """Check that a file can be the initial weights of a model, and return its format.

    Parameters
    ----------
    source : ByteSource
    name : str
        Its suffix names the format.

    Raises
    ------
    InvalidWeights
        If it cannot be parsed, or if a value is not finite.
    """
    with Spool(settings.SPOOL_BYTES) as spool:
        try:
            kind = format_of(name)
            weights = open_weights(source, kind, spool=spool, trusted=True)
            problem = find_non_finite(weights)
        except UpdateRejected as error:
            raise InvalidWeights(f"{name} does not hold weights: {error}") from error
    if problem:
        raise InvalidWeights(f"{name} has {problem}: no round could continue from it")
    return kind


def find_non_finite(weights: Weights) -> str:
    """Return the first value that is not finite, and its place, as a phrase; empty if there is none."""
    reader = BlockReader(PolicyMap(weights.layout, OPTIMIZE_ALL), [weights], None)
    for start in range(0, weights.layout.size, STEP):
        block = reader.now(start, min(start + STEP, weights.layout.size), on_demand=False)
        for why in block.unreadable.values():
            raise UpdateRejected(why)
        for piece in block.slices(STEP):
            for bad in bad_values(np.asarray(piece.rows)):
                return f"{bad.what} in {weights.layout.locate(piece.start + bad.column)}"
    return ""
