"""Events out, received from moto's EventBridge by a queue, as a dashboard would receive them."""

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
from connectors import DjangoAggConnector
from connectors.application import event_publisher
from connectors.publication.outbox import AT_MOST, EventPublisher, pending
from connectors.workflow.aggregator import DEFAULT_SETTINGS
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

#: What docs/events-out.md names: kinds of events, and their fields.
DOCUMENTED = set(
    re.findall(
        r"`([\w ]+)`", (Path(__file__).parents[3] / "docs" / "events-out.md").read_text(), re.ASCII
    )
)


class Bus:
    """An event bus, and a queue that gets what is sent to it."""

    def __init__(self, cloud: Cloud) -> None:
        self.events, self._sqs = cloud.client("events"), cloud.client("sqs")
        self._queue = self._sqs.create_queue(QueueName="announced")["QueueUrl"]

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
        """Kind and detail of every event since the last call."""
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
    """A bus that the function is told of."""
    bus = Bus(cloud)
    bus.open()
    event_publisher.cache_clear()
    with override_settings(EVENT_BUS=BUS):
        yield bus
    event_publisher.cache_clear()
    bus.close()
    bus.delete()


def test_a_published_aggregate_is_announced_once(bus: Bus) -> None:
    """The event names model, round, aggregate and key; the next invocation has nothing to add."""
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


def test_a_rollback_is_announced_as_one(bus: Bus) -> None:
    """Clients must train from the aggregate of a rollback: its event says so, and whose bytes it has."""
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


def test_an_aggregate_of_a_workflow_is_announced_as_one(bus: Bus) -> None:
    """A round that a workflow made step by step says so; nothing here knows what it computed."""
    model = make_model(1)
    update = ready_update(model, 1, filled(1.0))
    connector = DjangoAggConnector(DEFAULT_SETTINGS)
    connector.register_model_updates_for_aggregation([update])
    (loaded,) = connector.pull_model_updates_data([update])
    results = connector.prep_model_data_for_storage(loaded.data)
    aggregate = connector.post_new_model_aggregate(model, None, results)
    connector.register_model_update_used_in_aggregate([update], aggregate)
    invoke(payload("schedule-sweep"))
    ((kind, detail),) = bus.received()
    assert (kind, detail["made_by"]) == ("Aggregate Published", "workflow")
    assert (detail["aggregate_id"], detail["updates_used"]) == (aggregate.pk, 1)


def test_a_dropped_score_is_announced_until_it_recovers(bus: Bus) -> None:
    """The report that makes an aggregate worse than the model allows is told, and only that one."""
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
    """A client reports a score, and the function is told."""
    key = f"scores/{aggregate.federated_model_id}/{client_id(client)}/{aggregate.pk}.json"
    body = json.dumps({"accuracy": accuracy}).encode()
    invoke({"Records": [s3_record(key, put(key, body), len(body))]})


def test_a_rejected_update_is_announced_with_its_reason(bus: Bus) -> None:
    """Whether the door or the round rejects an update, its client is told why."""
    model = make_model(2, initial=filled(0.0))
    at_door = upload(model, 1, {"w": np.zeros((3, 2), np.float32)})
    invoke({"Records": [at_door]})
    ((kind, detail),) = bus.received()
    assert (kind, detail["client_id"]) == ("Update Rejected", str(client_id(1)))
    assert detail["reason"] == model.model_updates.get().rejection_reason
    assert detail["key"].startswith(f"updates/{model.pk}/{client_id(1)}/")
    ready_update(model, 2, filled(np.nan))
    invoke(scheduled(model))
    (ended, refused) = bus.received()
    assert (ended[0], refused[0]) == ("Round Rejected", "Update Rejected")
    assert refused[1]["reason"].startswith("nan in tensor")


def test_an_update_that_a_newer_one_superseded_is_announced(bus: Bus) -> None:
    """Updates that are rejected many at a time, in one statement, are announced one by one."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    ready_update(model, 1, filled(2.0))
    invoke(scheduled(model))
    kinds = [(kind, detail.get("reason", "")[:10]) for kind, detail in bus.received()]
    assert kinds == [("Aggregate Published", ""), ("Update Rejected", "superseded")]


def test_a_failed_round_and_the_pause_it_causes_are_announced(bus: Bus) -> None:
    """The last of too many failures says two things: the round failed, the model is paused."""
    model = make_model(1, initial=filled(0.0))
    assert model.current_artifact
    ready_update(model, 1, filled(1.0))
    FederatedModel.objects.filter(pk=model.pk).update(failed_rounds=2)
    model.current_artifact.values.storage.delete(model.current_artifact.values.name)
    with pytest.raises(Exception, match="cannot be read"):
        invoke(scheduled(model))
    (failed, paused) = bus.received()
    assert (failed[0], paused[0]) == ("Round Failed", "Model Paused")
    assert "cannot be read" in failed[1]["reason"]
    assert paused[1]["reason"].startswith("3 rounds failed in a row")
    assert paused[1]["event_id"].startswith(f"pause-{model.pk}-")


def test_a_pause_by_hand_is_announced_and_a_resumed_one_is_not(bus: Bus) -> None:
    """What was resumed before anybody was told is no news; what is paused anew is."""
    model = make_model(1)
    call_command("pause", str(model.pk), reason="review")
    call_command("resume", str(model.pk))
    invoke(payload("schedule-sweep"))
    assert bus.received() == []
    call_command("pause", str(model.pk), reason="second review")
    invoke(payload("schedule-sweep"))
    ((kind, detail),) = bus.received()
    assert (kind, detail["reason"]) == ("Model Paused", "second review")


def test_a_bus_that_is_away_fails_no_round_and_is_told_later(bus: Bus) -> None:
    """The round is published all the same, and the sweep sends what could not be sent."""
    bus.close()
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    assert invoke(scheduled(model))["status"] == "published"
    assert bus.received() == []
    bus.open()
    invoke(payload("schedule-sweep"))
    assert [kind for kind, _ in bus.received()] == ["Aggregate Published"]


def test_an_event_that_was_refused_is_sent_again_alone(bus: Bus) -> None:
    """Of a batch of which the bus refuses one, only that one comes again."""
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
        """A bus that has no room for one event, and takes the others."""

        def put_events(self, **request: Any) -> dict[str, Any]:
            entries = request["Entries"]
            taken = [each for each in entries if refused not in each["Detail"]]
            bus.events.put_events(Entries=taken)
            answers = [
                {"EventId": "1"} if each in taken else {"ErrorCode": "ThrottlingException"}
                for each in entries
            ]
            return {"Entries": answers}

    with pytest.raises(TemporarilyUnavailable, match="refused 1: ThrottlingException"):
        EventPublisher(Refusing(), BUS).announce()
    assert len(bus.received()) == 2
    assert EventPublisher(bus.events, BUS).announce() == 1
    assert [detail["event_id"] for _, detail in bus.received()] == [refused]


def test_what_happened_before_there_was_a_bus_is_no_news(bus: Bus) -> None:
    """Rows written while no bus was set are never announced, however long they wait."""
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
    assert list(pending()) == []


def test_telling_much_is_spread_over_invocations(bus: Bus) -> None:
    """One invocation sends no more than its share, the next goes on; statements grow with batches."""
    model = make_model(1)
    updates = [
        ModelUpdate(
            federated_model=model,
            client_id=client_id(1),
            data=f"updates/{number}",
            status=ModelUpdate.Status.INVALID,
        )
        for number in range(AT_MOST + 1)
    ]
    ModelUpdate.objects.bulk_create(updates)
    told_by = EventPublisher(bus.events, BUS)
    assert [told_by.announce() for _ in range(3)] == [AT_MOST, 1, 0]
    assert len({detail["event_id"] for _, detail in bus.received()}) == AT_MOST + 1


def test_without_a_bus_nothing_is_asked_or_sent() -> None:
    """Where EVENT_BUS is not set there is nobody to tell, and no row is marked."""
    assert event_publisher() is None
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    invoke(scheduled(model))
    assert not model.rounds.get().event_pending
