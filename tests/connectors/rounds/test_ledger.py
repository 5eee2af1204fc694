"""The round protocol in the database, beyond the contract: records, limits, statements and rivals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aggregation.engine.plan import Combined
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
    """As another process has it."""
    return RoundLedger(lambda: LEASE, "request-1")


def ready(model: FederatedModel, client: int, **fields: Any) -> ModelUpdate:
    """A ready update without an object: the protocol does not look at bytes."""
    return ModelUpdate.objects.create(
        federated_model=model,
        client_id=client_id(client),
        data=f"updates/{model.pk}/{client}/{next(_numbers)}.npz",
        **fields,
    )


def ready_model(clients: int = 1, **fields: Any) -> FederatedModel:
    """A model, every client of which has an update that is ready."""
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
    """As if the claim's updates had been combined; each one's norm is its id."""
    used = [update.id for update in claim.updates if update.id not in (rejected or {})]
    return RoundResult(
        used=tuple(used),
        rejected=rejected or {},
        location=f"aggregates/{claim.model_id}/{claim.number}.npz",
        combined=Combined(
            selection=Selection.equal(range(len(used))),
            norms=[float(n) for n in used],
            bytes_read=7,
        ),
    )


def checkpoint(number: int = 1) -> Any:
    return {"rejected": {}, "engine": {"number": number}}


def only_round(model: FederatedModel) -> AggregationRound:
    return model.rounds.get()


# What is recorded


def test_a_published_round_tells_what_happened(ledger: RoundLedger) -> None:
    """Who ran it and when, what came of it, and the norm of each update that was used."""
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
    norms = {update.pk: update.norm for update in model.model_updates.all()}
    assert norms == {good: float(good), bad: None}
    assert set(model.model_updates.values_list("round", flat=True)) == {found.pk}


def test_a_failed_round_tells_the_error(ledger: RoundLedger) -> None:
    """The kind of the error and its message are kept with the round."""
    model = ready_model()
    ledger.fail(claimed(ledger, model), ValueError("no luck"))
    found = only_round(model)
    assert (found.state, found.error) == (State.FAILED, "ValueError: no luck")
    assert found.finished_on


def test_a_rejected_round_tells_why(ledger: RoundLedger) -> None:
    """Too few usable updates are no failure, and do not count as one."""
    model = ready_model()
    claim = claimed(ledger, model)
    ledger.reject(claim, {claim.updates[0].id: "nan"}, "0 of 1 clients ready")
    found = only_round(model)
    assert (found.state, found.error) == (State.REJECTED, "0 of 1 clients ready")
    model.refresh_from_db()
    assert model.failed_rounds == 0


def test_a_claim_holds_the_terms_under_which_it_was_made(ledger: RoundLedger) -> None:
    """What an operator changes while a round runs holds from the next round on: whoever takes it over
    computes the same."""
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


def test_the_newest_of_a_client_is_told_by_storage(ledger: RoundLedger) -> None:
    """Events may come in any order: the upload that was stored last counts, not the one that was
    registered last."""
    model, now = make_model(1), timezone.now()
    newest = ready(model, 1, uploaded_on=now)
    older = ready(model, 1, uploaded_on=now - timedelta(seconds=1))
    claim = claimed(ledger, model)
    assert [update.id for update in claim.updates] == [newest.pk]
    older.refresh_from_db()
    assert older.rejection_reason == f"superseded by update {newest.pk}"


def test_a_paused_client_is_neither_heard_nor_waited_for(ledger: RoundLedger) -> None:
    """Its updates are not ready, stay as they are, and the others are all the clients there are."""
    model = make_model(2, requirement="all_clients")
    heard, silent = ready(model, 1), ready(model, 2)
    Client.objects.filter(pk=client_id(2)).update(paused=True)
    assert [update.id for update in claimed(ledger, model).updates] == [heard.pk]
    assert statuses([silent]) == ["PENDING"]


def test_a_client_who_left_is_neither_heard_nor_waited_for(ledger: RoundLedger) -> None:
    """What somebody uploaded who is no member any more is not ready."""
    model = make_model(2, requirement="all_clients")
    heard, _ = ready(model, 1), ready(model, 2)
    model.clients.remove(Client.objects.get(pk=client_id(2)))
    assert [update.id for update in claimed(ledger, model).updates] == [heard.pk]


def test_a_rule_waits_for_as_many_updates_as_it_needs(ledger: RoundLedger) -> None:
    """A rule that is not defined for so few updates waits for more, rather than fail."""
    model = ready_model(2, aggregator="krum", aggregator_args={"f": 1})
    answer = ledger.claim(model.pk)
    assert isinstance(answer, RoundAnswer)
    assert answer.status is Status.WAITING
    assert answer.reason.startswith("krum needs ")


def test_a_quorum_is_met_once_the_oldest_update_has_waited(ledger: RoundLedger) -> None:
    """Time alone makes the round start that a missing client kept from starting."""
    model = make_model(3, requirement="quorum", requirement_args=[2, 10])
    for client in (1, 2):
        ready(model, client)
    assert ledger.claim(model.pk).status is Status.WAITING  # type: ignore[union-attr]
    pass_time(timedelta(minutes=10, seconds=1))
    assert len(claimed(ledger, model).updates) == 2


# Limits


def test_failed_rounds_in_a_row_pause_the_model(ledger: RoundLedger) -> None:
    """After the third the model is paused, with what went wrong; its updates are as ready as ever."""
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


def test_a_published_round_forgets_failures(ledger: RoundLedger) -> None:
    """Only failures in a row count."""
    model = ready_model()
    for _ in range(2):
        ledger.fail(claimed(ledger, model), ValueError("no luck"))
    claim = claimed(ledger, model)
    ledger.publish(claim, result_of(claim))
    model.refresh_from_db()
    assert (model.failed_rounds, model.allow_aggregation) == (0, True)


def test_a_model_paused_by_hand_keeps_its_reason(ledger: RoundLedger) -> None:
    """What an operator has said is not written over by a round that fails later."""
    model = ready_model()
    claim = claimed(ledger, model)
    FederatedModel.objects.filter(pk=model.pk).update(
        allow_aggregation=False, pause_reason="under review", failed_rounds=5
    )
    ledger.fail(claim, ValueError("no luck"))
    model.refresh_from_db()
    assert model.pause_reason == "under review"


def test_a_round_that_gets_nowhere_is_given_up(ledger: RoundLedger) -> None:
    """Five attempts that got no further are enough: the round fails, and counts as failed."""
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
def test_a_round_that_gets_on_is_not_given_up(ledger: RoundLedger, leave: str) -> None:
    """A round may take as many attempts as it likes while each of them stores something."""
    model = ready_model()
    for attempt in range(1, 3 * MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = claimed(ledger, model)
        assert claim.attempt == attempt
        getattr(ledger, leave)(claim, checkpoint(attempt))
        pass_time(BEYOND_THE_LEASE)


def test_letting_go_without_progress_is_fruitless(ledger: RoundLedger) -> None:
    """An attempt that ends where it began has stored nothing, though there is a checkpoint."""
    model = ready_model()
    ledger.release_lease(claimed(ledger, model), checkpoint())
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS - 1):
        ledger.release_lease(claimed(ledger, model), checkpoint())
    assert isinstance(ledger.claim(model.pk), RoundAnswer)


def test_checkpoints_are_not_written_all_the_time(
    ledger: RoundLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of checkpoints that come quickly the first is kept, and then none for a while; the last one is
    kept when the lease is released."""
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


def test_a_rule_that_is_gone_fails_the_round_that_names_it(ledger: RoundLedger) -> None:
    """Whoever takes over a round whose terms are not known any more gives it up, and says why."""
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


def test_a_lease_is_as_long_as_it_is_when_the_round_begins() -> None:
    """The lease of a process that ends soon is short, by the clock of the database."""
    left = timedelta(seconds=300)
    ledger = RoundLedger(lambda: left)
    early, late = ready_model(), ready_model()
    claimed(ledger, early)
    left = timedelta(seconds=20)
    claimed(ledger, late)
    leases = [only_round(m).lease_expires_at - only_round(m).started_on for m in (early, late)]
    assert leases == [timedelta(seconds=300), timedelta(seconds=20)]


@pytest.mark.parametrize("offset", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_the_clock_of_a_process_does_not_judge_leases(
    monkeypatch: pytest.MonkeyPatch, offset: timedelta
) -> None:
    """A process whose clock is ten minutes off neither takes a live round over, nor leaves a released
    one waiting: only the database's clock counts."""
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


def test_the_first_checkpoint_of_each_round_is_kept(ledger: RoundLedger) -> None:
    """However soon after another round's: a round has nothing of what was kept of the one before."""
    for model in (ready_model(), ready_model()):
        ledger.save_checkpoint(claimed(ledger, model), checkpoint())
        assert only_round(model).checkpoint == checkpoint()


# What is due


def test_due_are_models_with_ready_updates_or_a_dead_round(ledger: RoundLedger) -> None:
    """A sweep sees to what is ready or was left behind, and to nothing that is paused, busy or done."""
    waiting, dead, busy, paused, done = (ready_model() for _ in range(5))
    claimed(ledger, dead)
    pass_time(BEYOND_THE_LEASE)
    claimed(ledger, busy)
    claim = claimed(ledger, done)
    ledger.publish(claim, result_of(claim))
    FederatedModel.objects.filter(pk=paused.pk).update(allow_aggregation=False)
    assert due_models() == [waiting.pk, dead.pk]


# Statements


def test_statements_of_a_round_do_not_grow_with_updates(ledger: RoundLedger) -> None:
    """Claiming, publishing and failing cost as many statements for 500 updates as for ten."""
    few, many = (statements_of_a_round(ledger, clients) for clients in (10, 500))
    assert few == many
    assert sum(few) < 30


def statements_of_a_round(ledger: RoundLedger, clients: int) -> list[int]:
    """Of claiming, failing, and publishing with half of the updates rejected."""
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
def test_a_request_that_changes_nothing_costs_three_statements_at_most(
    ledger: RoundLedger, reason: str
) -> None:
    """Most requests for a round come too soon; they neither write nor lock."""
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


# Out of reach


def test_a_database_that_is_away_is_temporarily_unavailable(ledger: RoundLedger) -> None:
    """Whatever is asked of a database that does not answer ends as the core's own error."""
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
