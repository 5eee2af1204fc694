"""Events, received from moto's EventBridge by a queue, as a dashboard would receive them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.test import override_settings

from aggregation.errors import TemporarilyUnavailable
from connectors import application
from connectors.application import event_publisher
from connectors.publication.event_publisher import EventPublisher
from connectors.publication.outbox import MAX_EVENTS, pending_events
from local.cloud import Cloud, queue_arn
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from tests.factories import (
    client_id,
    filled,
    make_model,
    put,
    ready_update,
    s3_record,
    upload,
)
from tests.test_lambda_handler import invoke, payload, scheduled

pytestmark = pytest.mark.usefixtures("database", "cloud")

BUS = "federation"

#: The kinds and fields of events that docs/events-out.md documents.
DOCUMENTED = set(
    re.findall(
        r"`([\w ]+)`", (Path(__file__).parents[3] / "docs" / "events-out.md").read_text(), re.ASCII
    )
)


class Bus:
    """An event bus, and a queue that receives its events."""

    def __init__(self, cloud: Cloud) -> None:
        self.events, self._sqs = cloud.client("events"), cloud.client("sqs")
        self._queue = self._sqs.create_queue(QueueName="published-events")["QueueUrl"]

    def open(self) -> None:
        self.events.create_event_bus(Name=BUS)
        pattern = json.dumps({"source": ["federated-aggregation"]})
        self.events.put_rule(Name="all", EventBusName=BUS, EventPattern=pattern)
        target = {"Id": "queue", "Arn": queue_arn(self._sqs, self._queue)}
        self.events.put_targets(Rule="all", EventBusName=BUS, Targets=[target])

    def close(self) -> None:
        self.events.remove_targets(Rule="all", EventBusName=BUS, Ids=["queue"])
        self.events.delete_rule(Name="all", EventBusName=BUS)
        self.events.delete_event_bus(Name=BUS)

    def delete(self) -> None:
        self._sqs.delete_queue(QueueUrl=self._queue)

    def received(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the kind and the detail of every event since the last call."""
        found: list[tuple[str, dict[str, Any]]] = []
        while True:
            answer = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
            if not answer.get("Messages"):
                return found
            for message in answer["Messages"]:
                event = json.loads(message["Body"])
                assert {event["detail-type"], *event["detail"]} <= DOCUMENTED
                found.append((event["detail-type"], event["detail"]))
                self._sqs.delete_message(
                    QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"]
                )


@pytest.fixture
def bus(cloud: Cloud) -> Iterator[Bus]:
    """A bus that the function publishes to."""
    bus = Bus(cloud)
    bus.open()
    event_publisher.cache_clear()
    with override_settings(EVENT_BUS=BUS):
        yield bus
    event_publisher.cache_clear()
    bus.close()
    bus.delete()


def test_a_published_aggregate_is_one_event(bus: Bus) -> None:
    """The event names model, round, aggregate and key; the next invocation publishes nothing."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    invoke(scheduled(model))
    aggregate = model.aggregates.get()
    ((kind, detail),) = bus.received()
    assert kind == "Aggregate Published"
    held = model.rounds.get()
    assert held.finished_on
    assert detail == {
        "schema": 1,
        "event_id": f"round-{held.pk}",
        "model_id": model.pk,
        "on": held.finished_on.isoformat(),
        "round": 1,
        "attempt": 1,
        "updates_used": 1,
        "updates_rejected": 0,
        "aggregate_id": aggregate.pk,
        "key": aggregate.result.name,
        "made_by": "round",
    }
    invoke(payload("schedule-sweep"))
    assert bus.received() == []


def test_the_event_of_a_rollback_names_the_aggregate_it_restores(bus: Bus) -> None:
    """The event of a rollback says so and names the aggregate whose bytes it has."""
    model = make_model(1)
    for value in (1.0, 2.0):
        ready_update(model, 1, filled(value))
        invoke(scheduled(model))
    first, _ = model.aggregates.order_by("number")
    assert [detail["made_by"] for _, detail in bus.received()] == ["round", "round"]
    call_command("rollback", str(first.pk))
    invoke(payload("schedule-sweep"))
    ((kind, detail),) = bus.received()
    assert (kind, detail["round"], detail["updates_used"]) == ("Aggregate Published", 3, 0)
    assert (detail["made_by"], detail["rolled_back_to"]) == ("rollback", first.pk)
    assert detail["key"] == model.aggregates.get(number=3).result.name


def test_the_event_of_a_workflows_aggregate_says_so(bus: Bus) -> None:
    """An aggregate that a workflow made step by step is published with `made_by` workflow."""
    model = make_model(1)
    update = ready_update(model, 1, filled(1.0))
    connector = application.workflow_connector()
    connector.register_model_updates_for_aggregation([update])
    (loaded,) = connector.pull_model_updates_data([update])
    data: Any = loaded.data
    results = connector.prep_model_data_for_storage(data)
    aggregate = connector.post_new_model_aggregate(model, None, results)
    connector.register_model_update_used_in_aggregate([update], aggregate)
    invoke(payload("schedule-sweep"))
    ((kind, detail),) = bus.received()
    assert (kind, detail["made_by"]) == ("Aggregate Published", "workflow")
    assert (detail["aggregate_id"], detail["updates_used"]) == (aggregate.pk, 1)


def test_a_dropped_score_is_one_event_until_it_recovers(bus: Bus) -> None:
    """Only the score that makes an aggregate worse than the model allows is published."""
    model = make_model(3, score_metric="accuracy", max_score_drop=0.1)
    for value in (1.0, 2.0):
        ready_update(model, 1, filled(value))
        invoke(scheduled(model))
    bus.received()
    parent, aggregate = model.aggregates.order_by("number")
    report(parent, 1, 0.9)
    report(aggregate, 1, 0.5)
    ((kind, detail),) = bus.received()
    assert (kind, detail["aggregate_id"], detail["clients"]) == ("Score Dropped", aggregate.pk, 1)
    assert (detail["score"], detail["parent_score"]) == (0.5, 0.9)
    assert "worse by 0.4, and max_score_drop is 0.1" in detail["reason"]
    report(aggregate, 2, 0.6)
    assert bus.received() == []
    report(aggregate, 3, 1.5)
    aggregate.refresh_from_db()
    assert aggregate.event_pending is None
    assert bus.received() == []


def report(aggregate: ModelAggregate, client: int, accuracy: float) -> None:
    """Store a client's score and invoke the function with its notification."""
    key = f"scores/{aggregate.federated_model_id}/{client_id(client)}/{aggregate.pk}.json"
    body = json.dumps({"accuracy": accuracy}).encode()
    invoke({"Records": [s3_record(key, put(key, body), len(body))]})


def test_a_rejected_update_is_an_event_with_its_reason(bus: Bus) -> None:
    """An update that intake or the round rejects is published with the reason."""
    model = make_model(2, initial=filled(0.0))
    rejected_at_intake = upload(model, 1, {"w": np.zeros((3, 2), np.float32)})
    invoke({"Records": [rejected_at_intake]})
    ((kind, detail),) = bus.received()
    assert (kind, detail["client_id"]) == ("Update Rejected", str(client_id(1)))
    assert detail["reason"] == model.model_updates.get().rejection_reason
    assert detail["key"].startswith(f"updates/{model.pk}/{client_id(1)}/")
    ready_update(model, 2, filled(np.nan))
    invoke(scheduled(model))
    (ended, refused) = bus.received()
    assert (ended[0], refused[0]) == ("Round Rejected", "Update Rejected")
    assert refused[1]["reason"].startswith("nan in tensor")


def test_a_superseded_update_is_an_event(bus: Bus) -> None:
    """Updates that one statement rejects together are published one by one."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    ready_update(model, 1, filled(2.0))
    invoke(scheduled(model))
    kinds = [(kind, detail.get("reason", "")[:10]) for kind, detail in bus.received()]
    assert kinds == [("Aggregate Published", ""), ("Update Rejected", "superseded")]


def test_a_failed_round_and_the_pause_it_causes_are_two_events(bus: Bus) -> None:
    """The failure that pauses a model publishes both the failed round and the pause."""
    model = make_model(1, initial=filled(0.0))
    assert model.current_artifact
    ready_update(model, 1, filled(1.0))
    FederatedModel.objects.filter(pk=model.pk).update(failed_rounds=2)
    model.current_artifact.values.storage.delete(str(model.current_artifact.values.name))
    with pytest.raises(Exception, match="cannot be read"):
        invoke(scheduled(model))
    (failed, paused) = bus.received()
    assert (failed[0], paused[0]) == ("Round Failed", "Model Paused")
    assert "cannot be read" in failed[1]["reason"]
    assert paused[1]["reason"].startswith("3 rounds failed in a row")
    assert paused[1]["event_id"].startswith(f"pause-{model.pk}-")


def test_a_pause_is_an_event_unless_it_has_ended(bus: Bus) -> None:
    """A pause that ended before it was published is not published; a later one is."""
    model = make_model(1)
    call_command("pause", str(model.pk), reason="review")
    call_command("resume", str(model.pk))
    invoke(payload("schedule-sweep"))
    assert bus.received() == []
    call_command("pause", str(model.pk), reason="second review")
    invoke(payload("schedule-sweep"))
    ((kind, detail),) = bus.received()
    assert (kind, detail["reason"]) == ("Model Paused", "second review")


def test_an_unavailable_bus_fails_no_round(bus: Bus) -> None:
    """The round succeeds, and the next sweep publishes its event."""
    bus.close()
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    assert invoke(scheduled(model))["status"] == "published"
    assert bus.received() == []
    bus.open()
    invoke(payload("schedule-sweep"))
    assert [kind for kind, _ in bus.received()] == ["Aggregate Published"]


def test_only_a_refused_event_is_sent_again(bus: Bus) -> None:
    """If the bus refuses one event of a batch, only that one is sent again."""
    models = [make_model(1) for _ in range(3)]
    for model in models:
        ready_update(model, 1, filled(1.0))
    with override_settings(EVENT_BUS=""):
        event_publisher.cache_clear()
        for model in models:
            invoke(scheduled(model))
    AggregationRound.objects.update(event_pending=True)
    refused = f"round-{models[1].rounds.get().pk}"

    class Refusing:
        """A bus that refuses one event and accepts the others."""

        def put_events(self, **request: Any) -> dict[str, Any]:
            entries = request["Entries"]
            taken = [each for each in entries if refused not in each["Detail"]]
            bus.events.put_events(Entries=taken)
            answers = [
                {"EventId": "1"} if each in taken else {"ErrorCode": "ThrottlingException"}
                for each in entries
            ]
            return {"Entries": answers}

    with pytest.raises(
        TemporarilyUnavailable, match="refused 1 events; the first: ThrottlingException"
    ):
        EventPublisher(Refusing(), BUS).publish()
    assert len(bus.received()) == 2
    assert EventPublisher(bus.events, BUS).publish() == 1
    assert [detail["event_id"] for _, detail in bus.received()] == [refused]


def test_what_happened_before_there_was_a_bus_is_not_published(bus: Bus) -> None:
    """Rows that were written while no bus was configured are never published."""
    model = make_model(1)
    with override_settings(EVENT_BUS=""):
        ready_update(model, 1, filled(1.0), status=ModelUpdate.Status.INVALID)
        AggregationRound.objects.create(
            federated_model=model,
            number=1,
            state=AggregationRound.State.FAILED,
            lease_expires_at="2026-11-24T00:00:00Z",
            started_on="2026-11-24T00:00:00Z",
        )
    assert list(pending_events()) == []


def test_many_events_are_spread_over_invocations(bus: Bus) -> None:
    """One invocation publishes at most `MAX_EVENTS` of a kind; the next one continues."""
    model = make_model(1)
    updates = [
        ModelUpdate(
            federated_model=model,
            client_id=client_id(1),
            data=f"updates/{number}",
            status=ModelUpdate.Status.INVALID,
        )
        for number in range(MAX_EVENTS + 1)
    ]
    ModelUpdate.objects.bulk_create(updates)
    publisher = EventPublisher(bus.events, BUS)
    assert [publisher.publish() for _ in range(3)] == [MAX_EVENTS, 1, 0]
    assert len({detail["event_id"] for _, detail in bus.received()}) == MAX_EVENTS + 1


def test_without_a_bus_nothing_is_marked_or_sent() -> None:
    """If EVENT_BUS is not set there is no publisher, and no row is marked."""
    assert event_publisher() is None
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    invoke(scheduled(model))
    assert not model.rounds.get().event_pending
