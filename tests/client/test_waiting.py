"""Waiting for a round: how long, what is said meanwhile, and what ends it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from federated_client import Bucket, Client, Posts, RoundOverdue, UpdateRejected, limits
from federated_client.pointer import parse_pointer
from federated_client.status import Status, parse_status
from federated_client.waiting import StorageState, wait_for_aggregate
from models_app.models import Client as ClientRecord
from tests.client.members import Deliver, StorageOf, federation, in_the_cloud, member, through
from tests.client.servers import handling
from tests.factories import client_id, filled, make_model, put
from tests.faults.proxy import outage, refuse, s3_proxy

pytestmark = in_the_cloud


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


@pytest.mark.parametrize(
    ("timeout", "poll", "pauses"),
    [(3, 5, [3]), (0, 5, []), (12, 5, [5, 5, 2]), (1, 0.25, [0.25] * 4), (5, 5, [5])],
)
def test_the_whole_timeout_is_waited(
    bucket: Bucket, clock: Clock, timeout: float, poll: float, pauses: list[float]
) -> None:
    """The last pause is shortened so that the wait ends at its timeout, not before, with a last look."""
    client = member(bucket, make_model(1))
    with pytest.raises(RoundOverdue, match=f"waited {timeout:g} seconds"):
        client.wait(timeout=timeout, poll=poll)
    assert clock.pauses == pauses


def write_status(key: str, model_id: int, state: str, *, reason: str = "", ready: int = 3) -> None:
    update = {"key": key, "state": state, "reason": reason, "aggregate": None, "at": "2026-11-28"}
    document = {
        "format": 1,
        "model": model_id,
        "client": str(client_id(1)),
        "updates": [update],
        "ready": ready,
        "requirement": "5 updates",
        "needed": 5,
    }
    put(f"status/{model_id}/{client_id(1)}.json", json.dumps(document).encode())


def test_a_rejected_update_ends_the_waiting(bucket: Bucket, clock: Clock) -> None:
    """The reason is raised with the first look at it, long before the timeout."""
    model = federation()
    client = member(bucket, model)
    key = client.upload(filled(1.0), num_examples=1)
    write_status(key, model.pk, "rejected", reason="the client is paused")
    with pytest.raises(UpdateRejected, match="rejected: the client is paused") as caught:
        client.wait(timeout=600)
    assert caught.value.reason == "the client is paused"
    assert clock.pauses == []


def test_another_update_that_was_rejected_does_not(bucket: Bucket, clock: Clock) -> None:
    """The rejection of an earlier update is not this one's."""
    model = federation()
    client = member(bucket, model)
    client.upload(filled(1.0), num_examples=1)
    write_status("updates/another", model.pk, "rejected")
    with pytest.raises(RoundOverdue):
        client.wait(timeout=1)


def test_progress_is_reported_when_it_changes(
    bucket: Bucket, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns how many updates are ready, once for each change."""
    model = federation()
    client = member(bucket, model)
    key = client.upload(filled(1.0), num_examples=1)
    ready = iter([3, 3, 4])

    def sleep(seconds: float) -> None:
        clock.now += seconds
        write_status(key, model.pk, "ready", ready=next(ready, 4))

    monkeypatch.setattr(time, "sleep", sleep)
    seen: list[str] = []
    with pytest.raises(RoundOverdue, match="; 4 of 5 updates are ready"):
        client.wait(timeout=20, poll=4, on_progress=seen.append)
    assert seen == [
        "3 of 5 updates are ready; this one is ready",
        "4 of 5 updates are ready; this one is ready",
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "updates": 3}', b"\xff"],
)
def test_a_status_of_another_format_is_none(body: bytes) -> None:
    """A document that this version does not know is ignored."""
    assert parse_status(body) is None


def test_the_status_of_the_client_is_returned(bucket: Bucket) -> None:
    """What the function says can be looked at without waiting."""
    model = federation()
    client = member(bucket, model)
    assert client.status() is None
    write_status("updates/x", model.pk, "superseded", ready=1)
    found = client.status()
    assert isinstance(found, Status)
    assert (found.of("updates/x").state, str(found)) == (  # type: ignore[union-attr]
        "superseded",
        "1 of 5 updates are ready",
    )


def test_an_outage_does_not_end_the_waiting(deliver: Deliver) -> None:
    """Storage that is unreachable is waited for like the round, and mentioned if it stays so."""
    model = federation(1)
    with s3_proxy() as proxy:
        client = member(through(proxy), model)
        client.fetch()
        client.upload(filled(1.0), num_examples=1)
        deliver()
        proxy.fault = lambda request: refuse(503, "SlowDown")
        with pytest.raises(RoundOverdue, match=r"after number 0 .* storage answers 503 SlowDown"):
            client.wait(timeout=0.1, poll=0.05)
        proxy.fault = outage(2, refuse(503, "SlowDown"), only="aggregates/")
        assert client.wait(timeout=60, poll=0.01).number == 1


def test_a_round_that_came_is_returned_at_once(
    bucket: Bucket, deliver: Deliver, clock: Any
) -> None:
    """Where the aggregate is there already, nobody waits."""
    client = member(bucket, federation(1))
    client.fetch()
    client.upload(filled(1.0), num_examples=1)
    deliver()
    assert client.wait(timeout=600).number == 1
    assert clock.pauses == []


def test_a_server_that_does_not_answer_does_not_prolong_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look that takes longer than the wait is abandoned, and mentioned."""
    monkeypatch.setattr(limits, "LAST_LOOK_SECONDS", 0.1)
    answered = threading.Event()
    with handling(lambda handler: void(answered.wait(60))) as url:
        client = Client(Posts([], url), model_id=1, client_id=client_id(1))
        with pytest.raises(RoundOverdue, match="storage did not answer within"):
            client.wait(timeout=0.2)
        answered.set()


def void(_: object) -> None:
    """Ignore a result."""


def test_a_round_whose_outcome_is_being_written_is_waited_for(
    bucket: Bucket, deliver: Deliver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that was rejected in the round is reported, though the aggregate was there first."""
    model = federation(1)
    client = member(bucket, model)
    client.fetch()
    key = client.upload(filled(1.0), num_examples=1)
    deliver()
    write_status(key, model.pk, "running")

    def sleep(seconds: float) -> None:
        clock.now += seconds
        write_status(key, model.pk, "rejected", reason="overflow")

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(UpdateRejected, match="overflow"):
        client.wait(timeout=20)


def test_the_function_says_what_became_of_each_update(
    storage_of: StorageOf, deliver: Deliver
) -> None:
    """From the upload to the round, each client learns how far the round is, and why it is rejected."""
    model = federation(3)
    first, second, paused = (member(storage_of(model, n), model, n) for n in (1, 2, 3))
    ClientRecord.objects.filter(pk=client_id(3)).update(paused=True)
    for client in (first, paused):
        client.fetch()
        client.upload(filled(1.0), num_examples=1)
    while deliver():
        pass
    with pytest.raises(UpdateRejected, match="paused"):
        paused.wait(timeout=0)
    seen: list[str] = []
    with pytest.raises(RoundOverdue, match="1 of 2 updates are ready"):
        first.wait(timeout=0, on_progress=seen.append)
    assert seen == ["1 of 2 updates are ready; this one is registered"]
    second.fetch()
    second.upload(filled(3.0), num_examples=1)
    while deliver():
        pass
    assert first.wait(timeout=0).number == 1
    status = second.status()
    assert status
    assert [(each.state, each.aggregate) for each in status.updates] == [
        ("complete", model.aggregates.get().pk)
    ]


@pytest.mark.parametrize(
    ("states", "looks"),
    [
        (["complete"], 1),
        ([""], 1),
        (["registered", "complete"], 2),
        (["registered"] * 3, 3),
        (["registered", "running", "running", "running", "complete"], 5),
    ],
)
def test_a_status_that_follows_its_aggregate_is_waited_for(states: list[str], looks: int) -> None:
    """The aggregate is seen before the status: it counts once it is known whether it has the update."""
    newest = parse_pointer(
        b'{"aggregate_id": 1, "number": 1, "key": "k", "etag": "e", "published_on": ""}', "k"
    )
    left = iter(states)
    found = wait_for_aggregate(
        lambda: StorageState(latest=newest, state=next(left)),
        after=0,
        timeout=60,
        poll=0,
        on_progress=None,
    )
    assert found.number == 1
    assert len(list(left)) == len(states) - looks
