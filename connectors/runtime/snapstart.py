"""SnapStart hooks: what a snapshot must not contain, and what each restored environment must renew.

Lambda takes one snapshot when a version is published and starts many environments from it.
docs/decisions/2026-11-24-cold-start.md says why nothing else needs to be done.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable

from django.db import connections

#: Bytes of entropy; as many as OpenSSL's generators are seeded with.
SEED_BYTES = 48


def register(prepare: Callable[[], None]) -> None:
    """Register both hooks with the runtime, if it takes snapshots.

    Parameters
    ----------
    prepare : callable
        Constructs what every environment would have to construct.
    """
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return
    # Part of Lambda's runtime and of awslambdaric; not deployed with the function.
    from snapshot_restore_py import (  # type: ignore[import-untyped]
        register_after_restore,
        register_before_snapshot,
    )

    register_before_snapshot(lambda: before_snapshot(prepare))
    register_after_restore(after_restore)


def before_snapshot(prepare: Callable[[], None]) -> None:
    """Construct what every environment needs, and leave no connection open.

    The database is not connected to: when a version is published it may be asleep or not exist yet, and
    its driver's OpenSSL must not create its random generator before a restore.
    """
    prepare()
    connections.close_all()


def after_restore() -> None:
    """Seed the random generators again.

    Nothing is connected to here: Aurora takes longer to resume than a restore may take. The first
    statement and the first request open new connections.
    """
    random.seed()
    ssl.RAND_add(os.urandom(SEED_BYTES), SEED_BYTES)
