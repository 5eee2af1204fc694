"""The function as it is deployed, with constants set so that a small model has several parts, each is
kept, and no test waits for what takes minutes in the cloud."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from importlib import import_module

from connectors.storage.s3_sink import S3Sink
from lambda_handler import handler, work
from tests.faults.processes import CONSTANTS, PART_BYTES
from tests.killing import KILLED, kill_after_storing

__all__ = ["handler", "work"]


def _set(dotted: str, value: float) -> None:
    module, name = dotted.rsplit(".", 1)
    kept = getattr(import_module(module), name)
    as_kept = timedelta(seconds=value) if isinstance(kept, timedelta) else value
    setattr(import_module(module), name, as_kept)


for _dotted, _value in {
    "aggregation.engine.ranges.PART_BYTES": PART_BYTES,
    "connectors.rounds.ledger.CHECKPOINT_SECONDS": 0,
    **json.loads(os.environ.get(CONSTANTS, "{}")),
}.items():
    _set(_dotted, _value)

if KILLED in os.environ:
    kill_after_storing(S3Sink, (1, 2, 3))
