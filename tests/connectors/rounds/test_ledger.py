"""The round protocol in the database, beyond the contract: records, limits, statements and outages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aggregation.engine.outcome import Combined
from aggregation.errors import TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer, RoundResult, Status
from aggregation.rules import Selection
from connectors.limits import CHECKPOINT_SECONDS, MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.rounds.ledger import RoundLedger
from connectors.rounds.selectors import due_models
from models_app.models import AggregationRound, Client, FederatedModel, ModelUpdate
from tests.conftest import using_database
from tests.connectors.workflow.backends import BEYOND_THE_LEASE, LEASE, pass_time
from tests.factories import client_id, make_model, statuses

pytestmark = pytest.mark.usefixtures("database")

State = AggregationRound.State
_numbers = itertools.count(1)


@pytest.fixture
def ledger() -> RoundLedger:
    return a_ledger()


def a_ledger() -> RoundLedger:
    """Return a ledger as another process creates it."""
    return RoundLedger(lambda: LEASE, "request-1")


def ready(model: FederatedModel, client: int, **fields: Any) -> ModelUpdate:
    """Create a ready update without an object, since the protocol reads no bytes."""
    return ModelUpdate.objects.create(
        federated_model=model,
        client_id=client_id(client),
        data=f"updates/{model.pk}/{client}/{next(_numbers)}.npz",
        **fields,
    )


def ready_model(clients: int = 1, **fields: Any) -> FederatedModel:
    """Create a model with a ready update of each client."""
    model = make_model(clients, **fields)
    ModelUpdate.objects.bulk_create(
        ModelUpdate(federated_model=model, client=client, data=f"updates/{model.pk}/{client}.npz")
        for client in model.clients.all()
    )
    return model


def claimed(ledger: RoundLedger, model: FederatedModel) -> Claim:
    claim = ledger.claim(model.pk)
    assert isinstance(claim, Claim), claim
    return claim


def result_of(claim: Claim, rejected: dict[int, str] | None = None) -> RoundResult:
    """Return a result that combines the updates of a claim; each has its id as norm, and cosine 0.5."""
    used = [update.id for update in claim.updates if update.id not in (rejected or {})]
    return RoundResult(
        used=tuple(used),
        rejected=rejected or {},
        location=f"aggregates/{claim.model_id}/{claim.number}.npz",
        combined=Combined(
            selection=replace(Selection.equal(range(len(used))), cosines=(0.5,) * len(used)),
            norms=[float(n) for n in used],
            bytes_read=7,
        ),
    )


def checkpoint(number: int = 1) -> Any:
    return {"rejected": {}, "engine": {"number": number}}


def only_round(model: FederatedModel) -> AggregationRound:
    return model.rounds.get()


# What is recorded


def test_a_published_round_records_its_outcome(ledger: RoundLedger) -> None:
    """A published round records its request, times, counts, and what was measured of each used update."""
    model = ready_model(2)
    claim = claimed(ledger, model)
    good, bad = (update.id for update in claim.updates)
    ledger.publish(claim, result_of(claim, {bad: "nan"}))
    found = only_round(model)
    assert (found.state, found.number, found.attempt) == (State.PUBLISHED, 1, 1)
    assert found.finished_on
    assert found.started_on < found.finished_on < found.started_on + LEASE
    assert (found.updates_used, found.updates_rejected, found.bytes_read) == (1, 1, 7)
    assert (found.request_id, found.aggregate, found.checkpoint) == (
        "request-1",
        model.aggregates.get(),
        None,
    )
    measured = model.model_updates.values_list("pk", "norm", "cosine", "scaling_factor")
    assert set(measured) == {(good, float(good), 0.5, 1.0), (bad, None, None, None)}
    assert set(model.model_updates.values_list("round", flat=True)) == {found.pk}


def test_a_failed_round_records_the_error(ledger: RoundLedger) -> None:
    """A failed round records the type and the message of the error."""
    model = ready_model()
    ledger.fail(claimed(ledger, model), ValueError("no luck"))
    found = only_round(model)
    assert (found.state, found.error) == (State.FAILED, "ValueError: no luck")
    assert found.finished_on


def test_a_rejected_round_records_the_reason(ledger: RoundLedger) -> None:
    """A round with too few usable updates is rejected and does not count as failed."""
    model = ready_model()
    claim = claimed(ledger, model)
    ledger.reject(claim, {claim.updates[0].id: "nan"}, "0 of 1 clients ready")
    found = only_round(model)
    assert (found.state, found.error) == (State.REJECTED, "0 of 1 clients ready")
    model.refresh_from_db()
    assert model.failed_rounds == 0


def test_a_claim_keeps_the_settings_it_was_made_with(ledger: RoundLedger) -> None:
    """Settings that change during a round apply from the next round on, also after a takeover."""
    model = make_model(2, aggregator="trimmed_mean", aggregator_args={"f": 0}, max_num_examples=5)
    for client in (1, 2):
        ready(model, client, num_examples=100)
    claim = claimed(ledger, model)
    FederatedModel.objects.filter(pk=model.pk).update(
        aggregator="weighted_mean",
        aggregator_args={},
        max_num_examples=7,
        requirement="require_x_updates",
        requirement_args=[3],
        update_kind="differences",
    )
    pass_time(BEYOND_THE_LEASE)
    taken = claimed(a_ledger(), model)
    for field in ("rule", "requirement", "updates", "differences", "parent"):
        assert getattr(taken, field) == getattr(claim, field), field
    assert [update.num_examples for update in taken.updates] == [5, 5]


def test_the_newest_update_is_the_one_stored_last(ledger: RoundLedger) -> None:
    """A round takes the upload that was stored last, not the one that was registered last."""
    model, now = make_model(1), timezone.now()
    newest = ready(model, 1, uploaded_on=now)
    older = ready(model, 1, uploaded_on=now - timedelta(seconds=1))
    claim = claimed(ledger, model)
    assert [update.id for update in claim.updates] == [newest.pk]
    older.refresh_from_db()
    assert older.rejection_reason == f"superseded by update {newest.pk}"


def test_a_paused_client_is_not_part_of_a_round(ledger: RoundLedger) -> None:
    """The updates of a paused client stay pending, and the requirement does not count the client."""
    model = make_model(2, requirement="all_clients")
    active, paused = ready(model, 1), ready(model, 2)
    Client.objects.filter(pk=client_id(2)).update(paused=True)
    assert [update.id for update in claimed(ledger, model).updates] == [active.pk]
    assert statuses([paused]) == ["PENDING"]


def test_a_removed_client_is_not_part_of_a_round(ledger: RoundLedger) -> None:
    """The updates of a removed client are not ready, and the requirement does not count the client."""
    model = make_model(2, requirement="all_clients")
    member, _ = ready(model, 1), ready(model, 2)
    model.clients.remove(Client.objects.get(pk=client_id(2)))
    assert [update.id for update in claimed(ledger, model).updates] == [member.pk]


def test_a_rule_waits_for_as_many_updates_as_it_needs(ledger: RoundLedger) -> None:
    """A round waits if its rule is not defined for so few updates."""
    model = ready_model(2, aggregator="krum", aggregator_args={"f": 1})
    answer = ledger.claim(model.pk)
    assert isinstance(answer, RoundAnswer)
    assert answer.status is Status.WAITING
    assert answer.reason.startswith("krum needs ")


def test_a_quorum_is_met_once_the_oldest_update_has_waited(ledger: RoundLedger) -> None:
    """A quorum starts a round without the missing client after the waiting time."""
    model = make_model(3, requirement="quorum", requirement_args=[2, 10])
    for client in (1, 2):
        ready(model, client)
    assert ledger.claim(model.pk).status is Status.WAITING  # type: ignore[union-attr]
    pass_time(timedelta(minutes=10, seconds=1))
    assert len(claimed(ledger, model).updates) == 2


# Limits


def test_failed_rounds_in_a_row_pause_the_model(ledger: RoundLedger) -> None:
    """The third failed round in a row pauses the model with the error; its updates stay ready."""
    model = ready_model()
    for count in (1, 2, 3):
        model.refresh_from_db()
        assert (model.allow_aggregation, model.failed_rounds) == (True, count - 1)
        ledger.fail(claimed(ledger, model), ValueError("no luck"))
    model.refresh_from_db()
    assert not model.allow_aggregation
    assert model.pause_reason == "3 rounds failed in a row; the last: ValueError: no luck"
    assert ledger.claim(model.pk) == RoundAnswer(
        model_id=model.pk, status=Status.PAUSED, reason=model.pause_reason
    )
    assert statuses(model.model_updates.all()) == ["FAILED"]


def test_a_published_round_resets_the_count_of_failures(ledger: RoundLedger) -> None:
    """A published round resets the count of failed rounds to zero."""
    model = ready_model()
    for _ in range(2):
        ledger.fail(claimed(ledger, model), ValueError("no luck"))
    claim = claimed(ledger, model)
    ledger.publish(claim, result_of(claim))
    model.refresh_from_db()
    assert (model.failed_rounds, model.allow_aggregation) == (0, True)


def test_a_model_paused_by_an_operator_keeps_its_reason(ledger: RoundLedger) -> None:
    """A round that fails later does not overwrite the pause reason of an operator."""
    model = ready_model()
    claim = claimed(ledger, model)
    FederatedModel.objects.filter(pk=model.pk).update(
        allow_aggregation=False, pause_reason="under review", failed_rounds=5
    )
    ledger.fail(claim, ValueError("no luck"))
    model.refresh_from_db()
    assert model.pause_reason == "under review"


def test_a_round_without_progress_fails(ledger: RoundLedger) -> None:
    """After five attempts without progress the round fails and counts as failed."""
    model = ready_model()
    for attempt in range(1, MAX_ATTEMPTS_WITHOUT_PROGRESS + 1):
        assert claimed(ledger, model).attempt == attempt
        pass_time(BEYOND_THE_LEASE)
    answer = ledger.claim(model.pk)
    assert isinstance(answer, RoundAnswer)
    assert (answer.status, answer.round) == (Status.FAILED, 1)
    assert "given up: 5 attempts" in answer.reason
    assert only_round(model).state == State.FAILED
    model.refresh_from_db()
    assert model.failed_rounds == 1
    assert claimed(ledger, model).attempt == 1


@pytest.mark.parametrize("leave", ["save_checkpoint", "release_lease"])
def test_a_round_with_progress_does_not_fail(ledger: RoundLedger, leave: str) -> None:
    """The number of attempts is unlimited while each one stores a checkpoint."""
    model = ready_model()
    for attempt in range(1, 3 * MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = claimed(ledger, model)
        assert claim.attempt == attempt
        getattr(ledger, leave)(claim, checkpoint(attempt))
        pass_time(BEYOND_THE_LEASE)


def test_a_release_without_a_new_checkpoint_is_no_progress(ledger: RoundLedger) -> None:
    """An attempt that stores the checkpoint it started with makes no progress."""
    model = ready_model()
    ledger.release_lease(claimed(ledger, model), checkpoint())
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS - 1):
        ledger.release_lease(claimed(ledger, model), checkpoint())
    assert isinstance(ledger.claim(model.pk), RoundAnswer)


def test_checkpoints_are_written_at_intervals(
    ledger: RoundLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints within the interval after the first are skipped; a release always writes the last."""
    seconds = itertools.count(step=CHECKPOINT_SECONDS / 2)
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("connectors.rounds.ledger.time", clock)
    model = ready_model()
    claim = claimed(ledger, model)
    for number in (1, 2, 3):
        with CaptureQueriesContext(connection) as statements:
            ledger.save_checkpoint(claim, checkpoint(number))
        assert len(statements) == (0 if number == 2 else 1)
    assert only_round(model).checkpoint == checkpoint(3)
    ledger.save_checkpoint(claim, checkpoint(4))
    ledger.release_lease(claim, checkpoint(4))
    assert only_round(model).checkpoint == checkpoint(4)


def test_a_round_with_an_unknown_rule_fails(ledger: RoundLedger) -> None:
    """A takeover of a round whose rule no longer exists fails the round and names the rule."""
    model = ready_model()
    claimed(ledger, model)
    only = model.rounds.filter(state=State.RUNNING)
    only.update(config_snapshot=only.get().config_snapshot | {"rule": "renamed"})
    pass_time(BEYOND_THE_LEASE)
    answer = ledger.claim(model.pk)
    assert isinstance(answer, RoundAnswer)
    assert (answer.status, answer.round) == (Status.FAILED, 1)
    assert "renamed" in answer.reason
    assert (only_round(model).state, only_round(model).error) == (State.FAILED, answer.reason)
    assert statuses(model.model_updates.all()) == ["FAILED"]
    assert claimed(ledger, model).attempt == 1


def test_the_length_of_a_lease_is_read_when_the_round_starts() -> None:
    """A process that ends soon gets a short lease, measured by the clock of the database."""
    left = timedelta(seconds=300)
    ledger = RoundLedger(lambda: left)
    early, late = ready_model(), ready_model()
    claimed(ledger, early)
    left = timedelta(seconds=20)
    claimed(ledger, late)
    leases = [only_round(m).lease_expires_at - only_round(m).started_on for m in (early, late)]
    assert leases == [timedelta(seconds=300), timedelta(seconds=20)]


@pytest.mark.parametrize("offset", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_leases_do_not_depend_on_the_clock_of_the_process(
    monkeypatch: pytest.MonkeyPatch, offset: timedelta
) -> None:
    """Leases are judged by the clock of the database, even if that of the process is ten minutes off."""
    now = timezone.now
    busy, released = ready_model(), ready_model()
    claimed(a_ledger(), busy)
    claim = claimed(a_ledger(), released)
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + offset)
    assert isinstance(a_ledger().claim(busy.pk), RoundAnswer)
    a_ledger().release_lease(claim, None)
    monkeypatch.setattr("django.utils.timezone.now", now)
    assert claimed(a_ledger(), released).attempt == 2
    assert due_models() == []


def test_the_first_checkpoint_of_each_round_is_written(ledger: RoundLedger) -> None:
    """The first checkpoint of a round is written, however recent that of another round is."""
    for model in (ready_model(), ready_model()):
        ledger.save_checkpoint(claimed(ledger, model), checkpoint())
        assert only_round(model).checkpoint == checkpoint()


# What is due


def test_models_with_ready_updates_or_an_expired_round_are_due(ledger: RoundLedger) -> None:
    """Models with ready updates or an expired round are due; paused, busy and finished ones are not."""
    waiting, expired, busy, paused, done = (ready_model() for _ in range(5))
    claimed(ledger, expired)
    pass_time(BEYOND_THE_LEASE)
    claimed(ledger, busy)
    claim = claimed(ledger, done)
    ledger.publish(claim, result_of(claim))
    FederatedModel.objects.filter(pk=paused.pk).update(allow_aggregation=False)
    assert due_models() == [waiting.pk, expired.pk]


# Statements


def test_statements_of_a_round_do_not_grow_with_updates(ledger: RoundLedger) -> None:
    """Claiming, publishing and failing take as many statements for 500 updates as for ten."""
    few, many = (statements_of_a_round(ledger, clients) for clients in (10, 500))
    assert few == many
    assert sum(few) < 30


def statements_of_a_round(ledger: RoundLedger, clients: int) -> list[int]:
    """Count the statements of claiming, failing, and publishing with half of the updates rejected."""
    model = ready_model(clients, requirement="all_clients", furthest_base_agg=2)
    with CaptureQueriesContext(connection) as claiming:
        claim = claimed(ledger, model)
    with CaptureQueriesContext(connection) as failing:
        ledger.fail(claim, ValueError("no luck"))
    claim = claimed(ledger, model)
    result = result_of(claim, {update.id: "nan" for update in claim.updates[: clients // 2]})
    with CaptureQueriesContext(connection) as publishing:
        ledger.publish(claim, result)
    used = model.model_updates.filter(status=ModelUpdate.Status.COMPLETE)
    assert used.filter(norm=F("pk")).count() == used.count() == clients // 2
    return [len(claiming), len(failing), len(publishing)]


@pytest.mark.parametrize("reason", ["nothing ready", "unmet", "busy", "paused"])
def test_a_request_without_effect_takes_at_most_three_statements(
    ledger: RoundLedger, reason: str
) -> None:
    """A request for a round that does not start neither writes nor locks."""
    model = make_model(2, requirement="all_clients", allow_aggregation=reason != "paused")
    if reason != "nothing ready":
        ready(model, 1)
    if reason == "busy":
        ready(model, 2)
        claimed(ledger, model)
    with CaptureQueriesContext(connection) as statements:
        assert isinstance(ledger.claim(model.pk), RoundAnswer)
    assert len(statements) <= 3
    assert all(each["sql"].startswith("SELECT") for each in statements)
    assert not any("FOR UPDATE" in each["sql"] for each in statements)


# Outages


def test_an_unreachable_database_is_temporarily_unavailable(ledger: RoundLedger) -> None:
    """Every operation on an unreachable database raises TemporarilyUnavailable."""
    claim = claimed(ledger, ready_model())
    acts: list[Callable[[], Any]] = [
        lambda: ledger.claim(1),
        lambda: ledger.publish(claim, result_of(claim)),
        lambda: ledger.reject(claim, {}, "too few"),
        lambda: ledger.fail(claim, ValueError("no luck")),
        lambda: ledger.release_lease(claim, None),
        due_models,
    ]
    with using_database("postgres://nobody@127.0.0.1:1/nowhere"):
        for act in acts:
            with pytest.raises(TemporarilyUnavailable, match="database cannot be reached"):
                act()
