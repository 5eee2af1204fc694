"""The functions, with results in parts so small that the demonstration's model has several."""

from __future__ import annotations

from aggregation.engine import ranges
from lambda_handler import handler, work

__all__ = ["handler", "work"]

#: The model of the demonstration takes 19 kB. Parts of S3 have 5 MiB or more.
ranges.PART_BYTES = 1 << 10
