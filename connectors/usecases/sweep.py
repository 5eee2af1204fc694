"""The sweep: rounds that are due, pointers and statuses that are stale, and what dead rounds left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils import timezone

from connectors.publication.pointer import stale_pointers
from connectors.publication.progress import try_write_progress
from connectors.publication.status import models_with_changes
from connectors.rounds.selectors import due_models
from connectors.storage.garbage import MIN_AGE, collect_garbage
from connectors.storage.port import Objects
from connectors.usecases.after_round import update_credentials, update_pointer, update_statuses
from connectors.usecases.observer import Observer
from connectors.usecases.run_round import RoundOutcomes, RoundRunner

#: An environment of the function lists the bucket this often at most.
COLLECT_EVERY = timedelta(hours=1)


class GarbageSchedule:
    """The time of this environment's next garbage collection; losing it does no harm."""

    def __init__(self) -> None:
        self._next_on = datetime.min.replace(tzinfo=UTC)

    def is_due(self) -> bool:
        """Return whether garbage is to be collected now; then not again for `COLLECT_EVERY`."""
        now = timezone.now()
        if now < self._next_on:
            return False
        self._next_on = now + COLLECT_EVERY
        return True


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """The result of a sweep.

    Parameters
    ----------
    due : list of int
        Ids of the models with a round that was due.
    rounds : RoundOutcomes or None
        None if the rounds were requested from the queue, or only looked for.
    """

    due: list[int]
    rounds: RoundOutcomes | None


def sweep(
    runner: RoundRunner,
    observer: Observer,
    *,
    dry_run: bool = False,
    collect: bool = True,
    older_than: timedelta = MIN_AGE,
) -> SweepOutcome:
    """Run or request the rounds that are due, write stale pointers and collect garbage.

    Parameters
    ----------
    runner : RoundRunner
        If it has a queue, the rounds are requested from that.
    observer : Observer
    dry_run : bool
        Report what would be done, and change nothing.
    collect : bool
        Whether to collect garbage.
    older_than : timedelta
        Younger orphans are kept.

    Raises
    ------
    TemporarilyUnavailable
        If the database or the queue cannot be reached.
    """
    due = due_models()
    rounds = None
    if dry_run:
        for model_id in due:
            observer.round_due(model_id)
    elif runner.queue:
        runner.queue.request_rounds(due)
    else:
        rounds = runner.run_each(due)
    _write_stale_pointers(runner.objects, observer, dry_run=dry_run)
    if settings.CLIENT_STATUS and not dry_run:
        _write_statuses(runner.objects, observer)
    if not dry_run:
        update_credentials(runner.objects, observer)
    if collect:
        _collect_garbage(runner.objects, observer, older_than, dry_run=dry_run)
    return SweepOutcome(due=due, rounds=rounds)


def _write_stale_pointers(objects: Objects, observer: Observer, *, dry_run: bool) -> None:
    try:
        stale = stale_pointers()
    except Exception as error:
        observer.step_delayed("looking for stale pointers", error)
        return
    for model_id in stale:
        if dry_run or update_pointer(objects, model_id, observer):
            observer.pointer_written(model_id)
        if not dry_run:
            try_write_progress(objects, model_id)


def _write_statuses(objects: Objects, observer: Observer) -> None:
    """Write the status documents that earlier invocations could not write."""
    try:
        changed = models_with_changes()
    except Exception as error:
        observer.step_delayed("looking for clients whose status has changed", error)
        return
    for model_id in changed:
        update_statuses(objects, model_id, observer)


def _collect_garbage(
    objects: Objects, observer: Observer, older_than: timedelta, *, dry_run: bool
) -> None:
    try:
        now = timezone.now()
        for orphan in collect_garbage(objects, now, older_than=older_than, dry_run=dry_run):
            observer.orphan_removed(orphan)
    except Exception as error:
        observer.step_delayed("collecting garbage", error)
