"""The weights that a model begins with, looked through before any client gets them."""

from __future__ import annotations

import numpy as np
from django.conf import settings
from django.core.management.base import CommandError

from aggregation.engine.arithmetic import bad_values
from aggregation.engine.blocks import BlockReader
from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, format_of, open_weights
from aggregation.sources import ByteSource
from aggregation.weights import Weights
from connectors.management.inputs import source_of

#: Values looked at at the same time.
STEP = 1 << 20


def initial_weights(given: str) -> tuple[ByteSource, str]:
    """What holds the initial weights, and their format.

    Raises
    ------
    CommandError
        If it cannot be read, holds no weights, or a value in them is not finite.
    """
    with source_of(given, "--initial") as source, Spool(settings.SPOOL_BYTES) as spool:
        try:
            kind = format_of(given)
            weights = open_weights(source, kind, spool=spool, trusted=True)
        except UpdateRejected as error:
            raise CommandError(f"{given} holds no weights that are known here: {error}") from error
        found = first_not_finite(weights)
    if found:
        raise CommandError(f"--initial: {given} has {found}: no round could go on from it")
    return source, kind


def first_not_finite(weights: Weights) -> str:
    """The first value that is no finite number, and where it is; empty if there is none."""
    reader = BlockReader(weights.layout, [weights], None)
    for start in range(0, weights.layout.size, STEP):
        block = reader.now(start, min(start + STEP, weights.layout.size), on_demand=False)
        for why in block.unreadable.values():
            raise UpdateRejected(why)
        for piece in block.slices(STEP):
            for bad in bad_values(np.asarray(piece.rows)):
                return f"{bad.what} in {weights.layout.locate(piece.start + bad.column)}"
    return ""
