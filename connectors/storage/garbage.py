"""What rounds that died leave behind, and how it is collected.

A result shows only once it is published; until then, and for ever if its attempt died, it is an
unfinished multipart upload or an object that no aggregate names. Nothing under ``updates/`` is ever
touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from aggregation.round import sink_state
from connectors.errors import translate_database_errors
from connectors.publication.pointer import is_pointer
from connectors.rounds.selectors import State
from connectors.storage.filesystem import Objects, Orphan
from models_app.models import AggregationRound, ModelAggregate, ModelArtifact

#: Where results are written.
PREFIX = "aggregates/"

#: Younger leftovers may belong to an attempt that lives: none lives longer than its lease, which is a
#: function's fifteen minutes and a little more.
OLD_ENOUGH = timedelta(hours=1)

#: Keys that are looked up in one statement.
PAGE = 500


@dataclass(frozen=True, kw_only=True)
class CollectedOrphan:
    """A leftover that was, or would be, removed."""

    key: str
    kind: str


def collect(
    objects: Objects, now: datetime, *, older_than: timedelta = OLD_ENOUGH, dry_run: bool = False
) -> list[CollectedOrphan]:
    """Remove unfinished uploads and orphaned objects of results.

    Parameters
    ----------
    objects : Objects
    now : datetime
    older_than : timedelta
        Leftovers younger than this are left alone.
    dry_run : bool
        Only tell what would be removed.

    Returns
    -------
    list of Collected

    Raises
    ------
    TemporarilyUnavailable
    """
    collected = []
    for page in _pages(objects.orphans(PREFIX)):
        old = [
            orphan
            for orphan in page
            if orphan.since <= now - older_than and not is_pointer(orphan.key)
        ]
        wanted = _wanted(orphan.key for orphan in old)
        for orphan in old:
            if (orphan.upload_id or orphan.key) in wanted:
                continue
            if not dry_run:
                objects.remove(orphan)
            kind = "unfinished upload" if orphan.upload_id else "orphaned object"
            collected.append(CollectedOrphan(key=orphan.key, kind=kind))
    return collected


def _pages(orphans: Iterable[Orphan]) -> Iterator[list[Orphan]]:
    page: list[Orphan] = []
    for orphan in orphans:
        page.append(orphan)
        if len(page) == PAGE:
            yield page
            page = []
    yield page


def _wanted(keys: Iterable[str]) -> set[str]:
    """Those of the keys that an aggregate or artifact names, and what unfinished rounds go on with:
    their uploads' ids, and the keys these will have."""
    asked = list(keys)
    if not asked:
        return set()
    wanted: set[str] = set()
    with translate_database_errors():
        # In this order: a round that is published in between is seen as an aggregate then.
        unfinished = AggregationRound.objects.filter(state=State.RUNNING).exclude(checkpoint=None)
        for checkpoint in unfinished.values_list("checkpoint", flat=True):
            sink = sink_state(checkpoint)
            if sink:
                wanted |= {sink["key"], sink["upload_id"]}
        aggregates = ModelAggregate.objects.filter(result__in=asked).values_list(
            "result", flat=True
        )
        artifacts = ModelArtifact.objects.filter(values__in=asked).values_list("values", flat=True)
        wanted.update(aggregates.union(artifacts))
    return wanted
