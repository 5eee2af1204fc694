"""SnapStart: what must not be in a snapshot, and what each environment restored from it needs of its own.

Lambda takes one snapshot when a version is published, and starts many environments from it. Why nothing
else needs to be done: docs/decisions/2026-11-24-cold-start.md.
"""

from __future__ import annotations

import os
import random
import ssl

from django.db import connections

from connectors.application import event_publisher, round_queue, score_intake, update_intake

#: Bytes of entropy; as many as OpenSSL's generators are seeded with.
SEED_BYTES = 48


def register() -> None:
    """Have the runtime call both hooks, where it takes snapshots."""
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return
    # Part of Lambda's runtime, and of awslambdaric: not deployed with the function.
    from snapshot_restore_py import (  # type: ignore[import-untyped]
        register_after_restore,
        register_before_snapshot,
    )

    register_before_snapshot(before_snapshot)
    register_after_restore(after_restore)


def before_snapshot() -> None:
    """Make what every environment would have to make; leave no connection open.

    The database is not connected to: it may be asleep, or not there yet, when a version is published, and
    its driver's OpenSSL must not have made its keys' generator before it is restored.
    """
    _ = update_intake(), score_intake(), round_queue(), event_publisher()
    connections.close_all()


def after_restore() -> None:
    """New random numbers; the first statement makes a new connection, the first request another.

    Nothing is connected to here: Aurora takes longer to wake than a restore may last.
    """
    random.seed()
    ssl.RAND_add(os.urandom(SEED_BYTES), SEED_BYTES)
