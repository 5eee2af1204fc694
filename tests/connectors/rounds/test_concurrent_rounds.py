"""Processes that want the same round at the same moment, each with its own connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F

from aggregation.errors import Conflict, LeaseLost, TemporarilyUnavailable
from aggregation.round import Claim, Status
from connectors import DjangoMetadataConnector
from connectors.rounds import transitions
from models_app.models import AggregationRound
from tests.connectors.rounds.test_ledger import (
    a_ledger,
    claimed,
    only_round,
    ready,
    ready_model,
    result_of,
)
from tests.connectors.workflow.backends import BEYOND_THE_LEASE, LEASE, pass_time
from tests.factories import make_model, statuses

pytestmark = pytest.mark.usefixtures("database")

#: SQLite, with one writer at a time, has no row locks.
on_postgres = pytest.mark.parametrize("database", ["postgres"], indirect=True)


def in_thread(act: Callable[[], Any]) -> Callable[[], Any]:
    """With a connection to the database of its own, which is closed in the end."""

    def run() -> Any:
        try:
            return act()
        finally:
            connections["default"].close()

    return run


def eight_times(act: Callable[[], Any]) -> list[Any]:
    """What eight rivals get, or are refused with, who do the same at the same moment."""
    barrier = threading.Barrier(8)

    def rival() -> Any:
        barrier.wait()
        try:
            return act()
        except Conflict as lost:
            return lost

    with ThreadPoolExecutor(8) as pool:
        rivals = [pool.submit(in_thread(rival)) for _ in range(8)]
        return [each.result() for each in rivals]


def wait_until_blocked() -> None:
    """Until some other connection waits for a lock."""
    for _ in range(1000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


@pytest.mark.parametrize("model_number", [1, 2, 3])
def test_of_eight_rivals_one_has_the_round(model_number: int) -> None:
    """Claimed by eight at the same moment, there is one round with every update, and seven are told
    that it is running, or that nothing is ready any more."""
    model = ready_model(4)
    answers = eight_times(lambda: a_ledger().claim(model.pk))
    (claim,) = [each for each in answers if isinstance(each, Claim)]
    assert len(claim.updates) == 4
    told = {each.status for each in answers if each is not claim}
    assert told <= {Status.BUSY, Status.WAITING}
    assert only_round(model).attempt == 1


def test_of_eight_rivals_one_takes_a_dead_round_over() -> None:
    """A round left behind gets one new attempt, not eight."""
    model = ready_model(4)
    claimed(a_ledger(), model)
    pass_time(BEYOND_THE_LEASE)
    answers = eight_times(lambda: a_ledger().claim(model.pk))
    assert [each.attempt for each in answers if isinstance(each, Claim)] == [2]
    assert only_round(model).attempt == 2


def test_of_eight_rivals_one_publishes() -> None:
    """The same attempt, awake eight times, makes one aggregate."""
    model = ready_model(4)
    claim = claimed(a_ledger(), model)
    answers = eight_times(lambda: a_ledger().publish(claim, result_of(claim)))
    assert sorted(type(each).__name__ for each in answers) == ["LeaseLost"] * 7 + ["RoundAnswer"]
    assert model.aggregates.count() == 1


def test_of_eight_workflows_one_registers() -> None:
    """Registered by eight workflows at once, the updates are one's."""
    model = ready_model(4)
    updates = list(model.model_updates.all())

    def register() -> str:
        settings = {"lease_seconds": LEASE.total_seconds()}
        DjangoMetadataConnector(settings).register_model_updates_for_aggregation(updates)
        return "registered"

    answers = eight_times(register)
    assert answers.count("registered") == 1
    assert sum(isinstance(each, Conflict) for each in answers) == 7
    assert statuses(updates) == ["RUNNING"] * 4
    assert only_round(model).external


@on_postgres
def test_an_upload_during_a_claim_waits_for_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that is registered while a round is being claimed is not rejected as superseded by the
    older one that the claim had seen: its insertion waits for the model's lock."""
    model = make_model(1)
    older = ready(model, 1)
    reject_superseded = transitions.reject_superseded

    with ThreadPoolExecutor(1) as pool:
        arriving: list[Any] = []

        def reject_while_another_arrives(opened: AggregationRound) -> None:
            arriving.append(pool.submit(in_thread(lambda: ready(model, 1))))
            wait_until_blocked()
            reject_superseded(opened)

        monkeypatch.setattr(transitions, "reject_superseded", reject_while_another_arrives)
        claim = claimed(a_ledger(), model)
    assert [update.id for update in claim.updates] == [older.pk]
    assert statuses([older, arriving[0].result()]) == ["RUNNING", "PENDING"]


@on_postgres
def test_a_latecomer_and_its_successor_do_not_block_each_other() -> None:
    """Whoever changes a round locks its model first: publishing late while another takes over is lost,
    rather than a deadlock."""
    model = ready_model()
    late = claimed(a_ledger(), model)

    def publish() -> Any:
        try:
            return a_ledger().publish(late, result_of(late))
        except (LeaseLost, TemporarilyUnavailable) as error:
            return error

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        transitions.lock_model(model.pk)
        publishing = pool.submit(in_thread(publish))
        wait_until_blocked()
        AggregationRound.objects.filter(federated_model=model).update(attempt=F("attempt") + 1)
    assert isinstance(publishing.result(), LeaseLost)
    assert not model.aggregates.exists()


@on_postgres
def test_a_request_that_comes_too_soon_waits_for_nobody() -> None:
    """What has nothing to start does not queue behind whoever holds the model's lock."""
    model = make_model(1)
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        transitions.lock_model(model.pk)
        asked = pool.submit(in_thread(lambda: a_ledger().claim(model.pk)))
        assert asked.result(timeout=10).status is Status.WAITING
