"""Garbage collection: remove what rounds that died have left behind.

A result becomes visible when it is published. Until then, and for good if its attempt died, it is an
unfinished multipart upload or an object that no aggregate names. The plan of a distributed round is
needed as long as the round is running. Nothing under ``updates/`` is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice

from aggregation.round import RoundCheckpoint, sink_states
from connectors.errors import translate_database_errors
from connectors.storage.keys import AGGREGATES, PLANS, is_document, plan_folder_of
from connectors.storage.port import Objects, Orphan
from models_app.models import AggregationRound, ModelAggregate, ModelArtifact

#: Younger orphans may belong to an attempt that is alive: an attempt in one function lives no longer than
#: its lease, which is a function's fifteen minutes and a little more. What a distributed round uses is
#: in the round's checkpoint.
MIN_AGE = timedelta(hours=1)

#: Keys that are looked up in one statement.
PAGE = 500


def collect_garbage(
    objects: Objects, now: datetime, *, older_than: timedelta = MIN_AGE, dry_run: bool = False
) -> list[Orphan]:
    """Remove unfinished uploads and orphaned objects of results, and plans of rounds that have ended.

    Parameters
    ----------
    objects : Objects
    now : datetime
    older_than : timedelta
        Younger orphans are kept.
    dry_run : bool
        Return what would be removed, and remove nothing.

    Returns
    -------
    list of Orphan
        What was removed.

    Raises
    ------
    TemporarilyUnavailable
    """
    collected = _collect_plans(objects, now - older_than, dry_run=dry_run)
    for page in _pages(objects.orphans(AGGREGATES)):
        old = [
            orphan
            for orphan in page
            if orphan.since <= now - older_than and not is_document(orphan.key)
        ]
        in_use = _in_use(orphan.key for orphan in old)
        for orphan in old:
            if (orphan.upload_id or orphan.key) in in_use:
                continue
            if not dry_run:
                objects.remove(orphan)
            collected.append(orphan)
    return collected


def _collect_plans(objects: Objects, before: datetime, *, dry_run: bool) -> list[Orphan]:
    collected = []
    for page in _pages(objects.listing(PLANS)):
        old = [orphan for orphan in page if orphan.since <= before]
        in_use = {checkpoint.get("plan") for checkpoint in _running_checkpoints()} if old else ()
        unused = [orphan for orphan in old if plan_folder_of(orphan.key) not in in_use]
        if not dry_run:
            objects.remove_objects(orphan.key for orphan in unused)
        collected += unused
    return collected


def _running_checkpoints() -> list[RoundCheckpoint]:
    """Return what running rounds will resume."""
    running = AggregationRound.objects.filter(state=AggregationRound.State.RUNNING)
    with translate_database_errors():
        return [found for found in running.values_list("checkpoint", flat=True) if found]


def _pages(orphans: Iterator[Orphan]) -> Iterator[list[Orphan]]:
    while page := list(islice(orphans, PAGE)):
        yield page


def _in_use(keys: Iterable[str]) -> set[str]:
    """Return the keys that an aggregate or artifact names, and what running rounds will continue:
    the ids and the keys of their uploads."""
    candidates = list(keys)
    if not candidates:
        return set()
    in_use: set[str] = set()
    with translate_database_errors():
        # In this order, so that a round published in between is found as an aggregate.
        for checkpoint in _running_checkpoints():
            for sink in filter(None, sink_states(checkpoint)):
                in_use |= {sink["key"], sink["upload_id"]}
            if "masks" in checkpoint:
                in_use.add(checkpoint["masks"]["sum"])
        aggregates = ModelAggregate.objects.filter(result__in=candidates)
        states = ModelAggregate.objects.filter(optimizer_state__in=candidates)
        artifacts = ModelArtifact.objects.filter(values__in=candidates)
        in_use.update(
            aggregates.values_list("result", flat=True).union(
                states.values_list("optimizer_state", flat=True),
                artifacts.values_list("values", flat=True),
            )
        )
    return in_use
