"""Several processes request the same round at the same time, each with its own connection."""

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
    """Return a function that closes the database connection of its thread at the end."""

    def run() -> Any:
        try:
            return act()
        finally:
            connections["default"].close()

    return run


def eight_times(act: Callable[[], Any]) -> list[Any]:
    """Return the results, or the conflicts, of eight threads that act at the same time."""
    barrier = threading.Barrier(8)

    def rival() -> Any:
        barrier.wait()
        try:
            return act()
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(8) as pool:
        rivals = [pool.submit(in_thread(rival)) for _ in range(8)]
        return [each.result() for each in rivals]


def wait_until_blocked() -> None:
    """Wait until another connection waits for a lock."""
    for _ in range(1000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("no connection waits for a lock")


@pytest.mark.parametrize("model_number", [1, 2, 3])
def test_one_of_eight_rivals_claims_the_round(model_number: int) -> None:
    """Of eight simultaneous claims, one gets a round with every update; the others are busy or waiting."""
    model = ready_model(4)
    answers = eight_times(lambda: a_ledger().claim(model.pk))
    (claim,) = [each for each in answers if isinstance(each, Claim)]
    assert len(claim.updates) == 4
    statuses_of_others = {each.status for each in answers if each is not claim}
    assert statuses_of_others <= {Status.BUSY, Status.WAITING}
    assert only_round(model).attempt == 1


def test_one_of_eight_rivals_takes_over_an_expired_round() -> None:
    """A round with an expired lease gets one new attempt, not eight."""
    model = ready_model(4)
    claimed(a_ledger(), model)
    pass_time(BEYOND_THE_LEASE)
    answers = eight_times(lambda: a_ledger().claim(model.pk))
    assert [each.attempt for each in answers if isinstance(each, Claim)] == [2]
    assert only_round(model).attempt == 2


def test_one_of_eight_rivals_publishes() -> None:
    """An attempt that publishes eight times at once creates one aggregate."""
    model = ready_model(4)
    claim = claimed(a_ledger(), model)
    answers = eight_times(lambda: a_ledger().publish(claim, result_of(claim)))
    assert sorted(type(each).__name__ for each in answers) == ["LeaseLost"] * 7 + ["RoundAnswer"]
    assert model.aggregates.count() == 1


def test_one_of_eight_workflows_registers() -> None:
    """Of eight simultaneous registrations of the same updates, one succeeds."""
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
    """An update that arrives during a claim waits for the lock of the model, and is not rejected."""
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
def test_a_late_attempt_and_its_successor_do_not_deadlock() -> None:
    """A publication during a takeover loses the lease, and both do not deadlock."""
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
def test_a_request_without_a_round_does_not_wait_for_the_lock() -> None:
    """A request that starts no round does not wait for the model's lock."""
    model = make_model(1)
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        transitions.lock_model(model.pk)
        request = pool.submit(in_thread(lambda: a_ledger().claim(model.pk)))
        assert request.result(timeout=10).status is Status.WAITING
