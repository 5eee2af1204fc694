"""The function: each row of the event table, with the S3 and SQS of moto and both databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.conf import settings

from aggregation.errors import AggregationError, OutOfTime
from connectors import application
from connectors.errors import UnknownModel
from connectors.limits import LEASE_SLACK_SECONDS, MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.publication.pointer import stale_pointers
from connectors.runtime.events import UnknownEvent
from connectors.usecases.sweep import GarbageSchedule
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from tests import factories
from tests.factories import filled, make_model, ready_update, sqs_event, upload

EVENTS = Path(__file__).parent.parent / "events"

pytestmark = pytest.mark.usefixtures("database", "cloud")


class Context:
    """The context that the runtime passes to a handler."""

    function_name = "aggregator"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:aggregator"
    aws_request_id = "6b1f3c1e-0000-4000-8000-000000000001"

    def __init__(self, seconds: float = 300) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


class ShortContext(Context):
    """The context of an invocation whose time is up as soon as there is an aggregate."""

    def get_remaining_time_in_millis(self) -> int:
        return 0 if ModelAggregate.objects.exists() else super().get_remaining_time_in_millis()


def invoke(event: Any, seconds: float = 300, context: Context | None = None) -> dict[str, Any]:
    from lambda_handler import handler

    answer: dict[str, Any] = handler(event, context or Context(seconds))  # type: ignore[arg-type]
    return answer


def payload(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return event


def scheduled(model: FederatedModel) -> dict[str, Any]:
    return {**payload("schedule-model"), "detail": {"model_id": model.pk}}


def result_of(aggregate: ModelAggregate) -> dict[str, Any]:
    return safetensors.numpy.load(factories.get(aggregate.result.name))


def round_requests(cloud: Any) -> list[Any]:
    """Return the round requests in the queue, without the notifications of uploads."""
    answer = cloud.client("sqs").receive_message(QueueUrl=cloud.queue_url, MaxNumberOfMessages=10)
    bodies = [json.loads(message["Body"]) for message in answer.get("Messages", ())]
    return [body for body in bodies if "model_id" in body]


def test_a_schedule_with_a_model_runs_one_round() -> None:
    """A schedule that names a model publishes the mean of its updates, weighted by their counts."""
    model = make_model(2, requirement="all_clients")
    ready_update(model, 1, filled(1.0), num_examples=1)
    ready_update(model, 2, filled(4.0), num_examples=2)
    answer = invoke(scheduled(model))
    aggregate = model.aggregates.get()
    assert answer == {
        "model_id": model.pk,
        "status": "published",
        "round": 1,
        "aggregate_id": aggregate.pk,
        "updates_used": 2,
        "updates_rejected": 0,
    }
    np.testing.assert_array_equal(result_of(aggregate)["w"], filled(3.0)["w"])


@pytest.mark.parametrize(
    "wrap", [lambda r: {"Records": [r]}, lambda r: sqs_event({"Records": [r]})]
)
def test_an_upload_is_registered_and_starts_the_round_it_completes(wrap: Any) -> None:
    """An upload event, direct or through the queue, makes an update; the last one makes a round."""
    model = make_model(2, requirement="all_clients")
    invoke(wrap(upload(model, 1, filled(1.0), num_examples=3)))
    update = model.model_updates.get()
    assert (update.status, update.num_examples) == (ModelUpdate.Status.PENDING, 3)
    assert not model.aggregates.exists()
    invoke(wrap(upload(model, 2, filled(5.0), num_examples=1)))
    np.testing.assert_array_equal(result_of(model.aggregates.get())["b"], filled(2.0)["b"])


def test_an_object_created_event_of_eventbridge_registers_an_update() -> None:
    """An upload event of EventBridge, whose key is not encoded, registers an update."""
    model = make_model(1)
    record = upload(model, 1, filled(1.0), name="round 1+2.safetensors")
    event = payload("eventbridge-object-created")
    stored = record["s3"]["object"]
    key = f"updates/{model.pk}/{factories.client_id(1)}/round 1+2.safetensors"
    event["detail"] = {
        "bucket": {"name": "federation"},
        "object": {"key": key, "size": stored["size"], "etag": stored["eTag"]},
    }
    assert invoke(event)["rounds"][0]["status"] == "published"


def test_a_sweep_requests_a_round_of_each_due_model(cloud: Any) -> None:
    """A schedule without a model sends one message for each model with ready updates."""
    due, idle, paused = make_model(1), make_model(1), make_model(1, allow_aggregation=False)
    ready_update(due, 1, filled(1.0))
    ready_update(paused, 1, filled(1.0))
    assert invoke(payload("schedule-sweep")) == {"requested": [due.pk]}
    assert round_requests(cloud) == [{"model_id": due.pk}]
    assert not idle.rounds.exists()


def test_without_a_queue_a_sweep_runs_the_rounds_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no queue is configured, the sweep runs the rounds itself."""
    monkeypatch.setattr("connectors.application.round_queue", lambda: None)
    models = [make_model(1), make_model(1)]
    for model in models:
        ready_update(model, 1, filled(1.0))
    answer = invoke(payload("schedule-sweep-scheduler"))
    assert [each["status"] for each in answer["rounds"]] == ["published", "published"]


def ready_models(count: int) -> list[FederatedModel]:
    """Create models of one client each, with a ready update."""
    models = [make_model(1, initial=filled(0.0)) for _ in range(count)]
    for model in models:
        ready_update(model, 1, filled(1.0))
    return models


def break_model(model: FederatedModel) -> None:
    """Make every later round of a model fail."""
    assert model.current_artifact
    factories.put(str(model.current_artifact.values.name), b"garbage")


def counted(output: str, name: str) -> float:
    """Return the sum of a metric in an output."""
    metrics = [json.loads(line) for line in output.splitlines() if '"_aws"' in line]
    return sum(sum(each.get(name, [])) for each in metrics)


def test_without_a_queue_a_failing_model_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep runs the round of every due model, and then raises the error of the one that failed."""
    monkeypatch.setattr("connectors.application.round_queue", lambda: None)
    collected: list[bool] = []

    def collect(*_: Any, **__: Any) -> list[Any]:
        collected.append(True)
        return []

    monkeypatch.setattr("connectors.application.garbage", GarbageSchedule())
    monkeypatch.setattr("connectors.usecases.sweep.collect_garbage", collect)
    bad, well = ready_models(2)
    assert stale_pointers()
    break_model(bad)
    with pytest.raises(AggregationError, match="cannot be read"):
        invoke(payload("schedule-sweep"))
    assert (bad.aggregates.count(), well.aggregates.count()) == (0, 1)
    assert collected == [True]
    assert well.pk not in stale_pointers()


def test_without_a_queue_a_sweep_out_of_time_starts_no_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep without time for a round does not start one, and the invocation fails."""
    monkeypatch.setattr("connectors.application.round_queue", lambda: None)
    done, left = ready_models(2)
    with pytest.raises(OutOfTime, match="no time was left"):
        invoke(payload("schedule-sweep"), context=ShortContext())
    assert (done.aggregates.count(), left.rounds.count()) == (1, 0)


def test_a_batch_out_of_time_requests_the_remaining_rounds(cloud: Any) -> None:
    """Rounds that were not started are requested by new messages, and the old ones are deleted."""
    done, left = ready_models(2)
    batch = sqs_event({"model_id": done.pk}, {"model_id": left.pk})
    assert invoke(batch, context=ShortContext()) == {"batchItemFailures": []}
    assert (done.aggregates.count(), left.rounds.count()) == (1, 0)
    assert {"model_id": left.pk} in round_requests(cloud)


def test_a_batch_without_a_queue_returns_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured queue, messages whose rounds were not started are delivered again."""
    monkeypatch.setattr("connectors.application.round_queue", lambda: None)
    done, left = ready_models(2)
    batch = sqs_event({"model_id": done.pk}, {"model_id": left.pk})
    answer = invoke(batch, context=ShortContext())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-2"}]}


def test_uploads_of_several_models_are_independent() -> None:
    """An event with several models runs the round of each, even if another one fails."""
    models = [make_model(1, initial=filled(0.0)) for _ in range(2)]
    break_model(models[0])
    ready_update(models[0], 1, filled(1.0))
    records = [upload(model, 1, filled(2.0)) for model in reversed(models)]
    records.insert(0, upload(models[0], 1, filled(3.0), name="other.safetensors"))
    with pytest.raises(AggregationError):
        invoke({"Records": records})
    assert [model.aggregates.count() for model in models] == [0, 1]


def test_a_sweep_survives_failures_after_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep requests its rounds even if it cannot list the bucket or find stale pointers."""

    def denied(*args: Any) -> Any:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr("connectors.application.garbage", GarbageSchedule())
    monkeypatch.setattr("connectors.usecases.sweep.stale_pointers", denied)
    monkeypatch.setattr("connectors.usecases.sweep.collect_garbage", denied)
    (due,) = ready_models(1)
    assert invoke(payload("schedule-sweep")) == {"requested": [due.pk]}


class RunningContext(Context):
    """The context of an invocation whose first round takes a hundred seconds."""

    def get_remaining_time_in_millis(self) -> int:
        passed = 100_000 if AggregationRound.objects.exists() else 0
        return super().get_remaining_time_in_millis() - passed


def test_leases_of_one_invocation_end_with_it() -> None:
    """Leases end with the invocation, so that of a later round is shorter."""
    models = ready_models(2)
    messages = sqs_event(*({"model_id": model.pk} for model in models))
    invoke(messages, context=RunningContext())
    rounds = AggregationRound.objects.order_by("pk")
    leases = [each.lease_expires_at - each.started_on for each in rounds]
    assert leases == [timedelta(seconds=300 + LEASE_SLACK_SECONDS - passed) for passed in (0, 100)]


def test_a_round_without_progress_counts_as_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A round without progress is counted as failed, and so is the pause of its model."""
    (model,) = ready_models(1)
    FederatedModel.objects.filter(pk=model.pk).update(failed_rounds=settings.MAX_FAILED_ROUNDS - 1)
    application.round_connector().claim_round(model.pk)
    model.rounds.update(
        attempts_without_progress=MAX_ATTEMPTS_WITHOUT_PROGRESS,
        lease_expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    capsys.readouterr()
    answer = invoke(scheduled(model))
    assert (answer["status"], answer["round"]) == ("failed", 1)
    output = capsys.readouterr().out
    assert (counted(output, "RoundsFailed"), counted(output, "ModelsPaused")) == (1, 1)


def test_a_message_that_names_a_model_runs_a_round() -> None:
    """The message {"model_id": n} runs one round."""
    model = make_model(1)
    ready_update(model, 1, filled(2.0))
    assert invoke(sqs_event({"model_id": model.pk})) == {"batchItemFailures": []}
    assert model.aggregates.count() == 1


@pytest.mark.parametrize("name", ["s3-test-event", "sqs-s3-test-event"])
def test_the_test_event_of_s3_is_ignored(name: str) -> None:
    """The test event of S3 has no effect and succeeds."""
    assert invoke(payload(name)) in ({"rounds": []}, {"batchItemFailures": []})


@pytest.mark.parametrize(
    "event", [payload("unknown"), {}, {"Records": []}, [], "text", {"detail": {"model_id": 1}}]
)
def test_an_unknown_event_is_refused(event: Any) -> None:
    """An unknown event raises an error instead of an empty success."""
    with pytest.raises(UnknownEvent):
        invoke(event)


def test_an_unknown_model_is_a_clear_error() -> None:
    """A round of an unknown model is refused with its id."""
    event = {**payload("schedule-model"), "detail": {"model_id": 4711}}
    with pytest.raises(UnknownModel, match="4711"):
        invoke(event)


def test_one_bad_message_does_not_block_its_batch() -> None:
    """Only failed messages are returned to SQS, and the others take effect."""
    bad, well = ready_models(2)
    break_model(bad)
    answer = invoke(sqs_event({"model_id": bad.pk}, {"model_id": well.pk}))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-1"}]}
    assert (bad.aggregates.count(), well.aggregates.count()) == (0, 1)


def test_a_message_that_can_never_be_processed_is_refused_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A malformed message, or one for an unknown model, is logged, counted and not redelivered."""
    model = make_model(1)
    good = {"Records": [upload(model, 1, filled(1.0))]}
    capsys.readouterr()
    answer = invoke(sqs_event({"hello": "world"}, good, "not json", {"model_id": 4711}))
    assert answer == {"batchItemFailures": []}
    assert model.aggregates.count() == 1
    assert counted(capsys.readouterr().out, "MessagesRefused") == 3


class SlowContext(Context):
    """The context of an invocation whose time is up once an update has been registered."""

    def get_remaining_time_in_millis(self) -> int:
        registered = ModelUpdate.objects.exists()
        return 0 if registered else super().get_remaining_time_in_millis()


def test_messages_without_remaining_time_are_returned() -> None:
    """A batch checks the time between messages, and returns the remaining ones unprocessed."""
    model = make_model(2, requirement="all_clients")
    messages = [{"Records": [upload(model, client, filled(1.0))]} for client in (1, 2)]
    answer = invoke(sqs_event(*messages), context=SlowContext())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-2"}]}
    assert model.model_updates.count() == 1


def received(cloud: Any, body: str) -> dict[str, Any] | None:
    """Return the message with this body as SQS delivers it, if it is visible."""
    answer = cloud.client("sqs").receive_message(
        QueueUrl=cloud.queue_url,
        MaxNumberOfMessages=10,
        AttributeNames=["ApproximateReceiveCount"],
    )
    for message in answer.get("Messages", ()):
        if message["Body"] == body:
            found = {"receiptHandle": message["ReceiptHandle"]}
            return found | {"attributes": message["Attributes"], "body": body}
    return None


def test_a_failed_message_returns_after_its_backoff(
    cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed message returns after its backoff, before the visibility timeout of the queue."""
    monkeypatch.setattr("connectors.runtime.queue.RETRY_FIRST_SECONDS", 0)
    (bad,) = ready_models(1)
    break_model(bad)
    body = json.dumps({"model_id": bad.pk})
    cloud.client("sqs").send_message(QueueUrl=cloud.queue_url, MessageBody=body)
    message = received(cloud, body)
    assert message
    assert received(cloud, body) is None
    event = sqs_event(body)
    event["Records"][0] |= message
    assert invoke(event)["batchItemFailures"]
    again = received(cloud, body)
    assert again
    assert again["attributes"]["ApproximateReceiveCount"] == "2"


def test_a_message_seen_twice_counts_once() -> None:
    """A notification that is delivered again registers no update and changes no aggregate."""
    model = make_model(1)
    event = sqs_event({"Records": [upload(model, 1, filled(1.0))]})
    assert invoke(event) == invoke(event) == {"batchItemFailures": []}
    assert (model.model_updates.count(), model.aggregates.count()) == (1, 1)


def test_a_paused_model_waits_and_keeps_its_updates() -> None:
    """No round of a paused model starts, and its updates stay ready."""
    model = make_model(1, allow_aggregation=False)
    update = ready_update(model, 1, filled(1.0))
    assert invoke(scheduled(model))["status"] == "paused"
    assert factories.statuses([update]) == ["PENDING"]


def test_a_request_during_a_running_round_is_busy() -> None:
    """While a round holds its lease, another request returns busy and changes nothing."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    application.round_connector().claim_round(model.pk)
    assert invoke(scheduled(model))["status"] == "busy"
    assert model.rounds.get().attempt == 1


def test_bad_updates_are_left_out_and_named() -> None:
    """An update with NaN is left out, with the name and place of the value as the reason."""
    model = make_model(3, requirement="require_x_updates", requirement_args=[2])
    poisoned = filled(1.0)
    poisoned["w"][1, 2] = np.nan
    updates = [
        ready_update(model, 1, filled(1.0)),
        ready_update(model, 2, poisoned),
        ready_update(model, 3, filled(3.0)),
    ]
    answer = invoke(scheduled(model))
    assert (answer["status"], answer["updates_used"], answer["updates_rejected"]) == (
        "published",
        2,
        1,
    )
    assert factories.statuses(updates) == ["COMPLETE", "INVALID", "COMPLETE"]
    updates[1].refresh_from_db()
    assert updates[1].rejection_reason == "nan in tensor 'w' at [1, 2]"
    np.testing.assert_array_equal(result_of(model.aggregates.get())["w"], filled(2.0)["w"])


def test_a_round_with_too_few_usable_updates_is_rejected() -> None:
    """The requirement is checked again after rejections, and the good updates are freed."""
    model = make_model(2, requirement="all_clients")
    updates = [ready_update(model, 1, filled(1.0)), ready_update(model, 2, filled(np.inf))]
    answer = invoke(scheduled(model))
    assert (answer["status"], answer["updates_rejected"]) == ("rejected", 1)
    assert factories.statuses(updates) == ["PENDING", "INVALID"]
    assert not model.aggregates.exists()
    assert model.rounds.get().state == AggregationRound.State.REJECTED


def test_updates_that_arrive_during_a_round_start_the_next_one() -> None:
    """After publishing, the function runs a round of the updates that became ready meanwhile."""
    model = make_model(2)
    ready_update(model, 1, filled(1.0))
    from aggregation.round.attempt import Attempt

    original = Attempt.combine

    def combine(self: Any) -> Any:
        if not model.aggregates.exists() and model.model_updates.count() == 1:
            ready_update(model, 2, filled(9.0))
        return original(self)

    Attempt.combine = combine  # type: ignore[method-assign]
    try:
        invoke(scheduled(model))
    finally:
        Attempt.combine = original  # type: ignore[method-assign]
    assert model.aggregates.count() == 2


def test_a_round_out_of_time_requests_its_continuation(cloud: Any) -> None:
    """A round out of time releases its lease and sends a message, which finishes it."""
    model = make_model(1, initial=filled(0.0))
    ready_update(model, 1, filled(1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregation.engine.passes.chunk_elements", lambda *args, **state: 4)
        answer = invoke(scheduled(model), seconds=0)
    assert (answer["status"], answer["round"]) == ("busy", 1)
    assert round_requests(cloud) == [{"model_id": model.pk}]
    assert invoke(scheduled(model))["status"] == "published"
    assert model.rounds.get().attempt == 2
