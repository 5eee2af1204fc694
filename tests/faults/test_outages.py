"""Outages of the database and of S3 only delay a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from connectors.storage.retries import TRIES
from local.event_pump import EventPump
from local.postgres import EmbeddedPostgres
from models_app.models import FederatedModel
from tests.factories import make_model, ready_update, sqs_event, upload
from tests.faults.federation import end_state, expire_leases, tensors
from tests.faults.processes import WarmFunction, warm_function
from tests.faults.proxy import (
    Proxy,
    at_first,
    outage,
    refuse,
    reset,
    swallow,
    truncate,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")


def an_upload() -> tuple[FederatedModel, Any]:
    """Create a model with a ready update, and the message of the missing one."""
    model = make_model(2, requirement="all_clients")
    ready_update(model, 1, tensors(1), suffix="safetensors")
    record = upload(model, 2, tensors(2), name="2.safetensors")
    return model, sqs_event({"Records": [record]})


FAILED = {"batchItemFailures": [{"itemIdentifier": "message-1"}]}
DONE: dict[str, list[Any]] = {"batchItemFailures": []}


@pytest.fixture(scope="module")
def behind_proxy(own_s3: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmFunction]:
    """Yield a function whose SDK does not retry, so that all retries are its own."""
    with warm_function(
        tmp_path_factory.mktemp("function"),
        constants={"connectors.storage.retries.FIRST_PAUSE_SECONDS": 0.001},
        AWS_ENDPOINT_URL=own_s3.endpoint,
        AWS_MAX_ATTEMPTS="1",
    ) as function:
        yield function


FAULTS = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "reset": reset,
    "truncated": truncate,
    "lost answer": swallow,
}


on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database", ["postgres"], indirect=True)


@on_sqlite
class TestS3:
    """Faults of S3."""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_short_outage_is_retried(
        self, behind_proxy: WarmFunction, s3: Proxy, fault: str
    ) -> None:
        """If every request fails twice, one invocation still publishes the same bytes."""
        model, event = an_upload()
        assert behind_proxy.answer("invoke", event=event) == DONE
        expected = end_state(model)
        model, event = an_upload()
        s3.fault = at_first(2, FAULTS[fault])
        assert behind_proxy.answer("invoke", event=event) == DONE
        assert end_state(model) == expected

    @pytest.mark.parametrize("fault", ["503", "lost answer"])
    @pytest.mark.parametrize("only", ["updates/", "aggregates/"])
    def test_a_long_outage_is_left_to_the_queue(
        self, behind_proxy: WarmFunction, s3: Proxy, fault: str, only: str
    ) -> None:
        """If S3 fails longer than the retries, the next delivery of the message ends as if undisturbed."""
        model, event = an_upload()
        behind_proxy.answer("invoke", event=event)
        expected = end_state(model)
        model, event = an_upload()
        s3.fault = outage(TRIES + 2, FAULTS[fault], only=only)
        assert behind_proxy.answer("invoke", event=event) == FAILED
        assert behind_proxy.answer("invoke", event=event) == DONE
        assert end_state(model) == expected
        model.refresh_from_db()
        assert model.failed_rounds == 0

    def test_an_object_that_is_visible_late_is_waited_for(
        self, behind_proxy: WarmFunction, s3: Proxy
    ) -> None:
        """A message that comes a moment before its object can be seen is dealt with all the same."""
        model, event = an_upload()
        s3.fault = outage(2, refuse(404, "NoSuchKey"), only="updates/")
        assert behind_proxy.answer("invoke", event=event) == DONE
        assert model.aggregates.count() == 1

    def test_an_object_that_does_not_appear_ends_as_a_dead_letter_and_can_be_redriven(
        self, behind_proxy: WarmFunction, s3: Proxy, cloud: Any
    ) -> None:
        """A message of a missing object becomes a dead letter, and `redrive` processes it later."""
        model = make_model(1)
        upload(model, 1, tensors(1), name="late.safetensors")
        sqs = cloud.client("sqs")
        pump = EventPump(
            cloud.queue_url,
            lambda event: behind_proxy.answer("invoke", event=event),
            sqs=sqs,
            wait_seconds=0,
        )
        s3.fault = lambda request: (
            refuse(404, "NoSuchKey") if request.key.endswith("/late.safetensors") else None
        )
        while pump.pump_once():
            pass
        (letter,) = sqs.receive_message(QueueUrl=cloud.dead_letter_url, VisibilityTimeout=0)[
            "Messages"
        ]
        assert "late.safetensors" in letter["Body"]
        failures = behind_proxy.logged("message failed")[-5:]
        assert {each["message_id"] for each in failures} == {letter["MessageId"]}
        assert all("deleted, or not visible yet" in each["exception"] for each in failures)
        s3.fault = lambda request: None
        call_command("redrive")
        while pump.pump_once():
            pass
        assert [update[1] for update in end_state(model)["updates"]] == ["COMPLETE"]


def ready() -> tuple[FederatedModel, Any]:
    """Create a model whose round can start, and the message that requests it."""
    model = make_model(2)
    for client in (1, 2):
        ready_update(model, client, tensors(client))
    return model, sqs_event({"model_id": model.pk})


@on_postgres
class TestDatabase:
    """Faults of PostgreSQL."""

    def test_a_connection_broken_at_any_step_only_delays_the_round(
        self, function: WarmFunction
    ) -> None:
        """If the connection ends before any statement, the next delivery ends as if undisturbed."""
        model, event = ready()
        undisturbed = function.run("invoke", event=event)
        expected = end_state(model)
        seen: Counter[str] = Counter()
        stopped = []
        for name in undisturbed.steps:
            if " " in name or name == "COMMIT":  # Not one of S3's.
                seen[name] += 1
                at = f"{name} {seen[name]}"
                model, event = ready()
                process = function.start("invoke", at=at, signal="SIGSTOP", event=event)
                stopped.append((at, model, event, process))
        assert len(stopped) > 20
        assert {process.wait().ended for *_, process in stopped} == {"SIGSTOP"}
        break_connections()
        for *_, process in stopped:
            assert process.resume().answer in (FAILED, DONE)
        function.answer("settle", events=[event for _, _, event, _ in stopped])
        for at, model, _, _ in stopped:
            assert end_state(model) == expected, at

    def test_a_restart_of_the_server_only_delays_the_round(
        self, function: WarmFunction, postgres: EmbeddedPostgres
    ) -> None:
        """After a restart of PostgreSQL and the end of the lease, the round ends as if undisturbed."""
        model, event = ready()
        function.answer("invoke", event=event)
        expected = end_state(model)
        model, event = ready()
        invocation = function.start("invoke", at="UploadPart 2", signal="SIGSTOP", event=event)
        assert invocation.wait().ended == "SIGSTOP"
        connection.close()
        postgres.stop()
        try:
            assert invocation.resume().answer == FAILED
            assert function.answer("invoke", event=event) == FAILED
        finally:
            postgres.start()
        expire_leases()
        settled = function.run("settle", events=[event])
        assert end_state(model) == expected
        assert "ListParts" in settled.steps
        assert settled.steps.count("UploadPart") < 3


def break_connections() -> None:
    """End all other connections, as a failover does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
