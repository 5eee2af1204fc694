"""What the settings allow a round to use, wherever it runs."""

from __future__ import annotations

import os

from django.conf import settings

from aggregation.engine import Resources


def round_resources() -> Resources:
    """The memory of MEMORY_BUDGET_MB, and threads: a bucket is waited for, a disk is not."""
    cores = os.cpu_count() or 1
    return Resources(
        memory_bytes=settings.MEMORY_BUDGET_MB << 20,
        readers=settings.READ_THREADS if settings.BUCKET else cores,
        workers=cores,
    )
