"""Killing the process at any step of a round only delays it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.management import call_command

from models_app.models import AggregationRound, FederatedModel, ModelAggregate
from tests.factories import client_id, make_model, put, ready_update, sqs_event, upload
from tests.faults.federation import TWO_PARTS, end_state, expire_leases, orphans, tensors
from tests.faults.processes import WarmFunction
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")


#: Processes that are killed at the same time, each in a separate round.
AT_ONCE = 6


def an_upload() -> tuple[FederatedModel, Any]:
    """Create a model with two ready updates and the message of a third; the second is bad in its last
    part. The model has an aggregate, with the state that its optimizer left."""
    model = make_model(
        3, requirement="require_x_updates", requirement_args=[2], server_optimizer="fedadam"
    )
    parent = tensors(0, TWO_PARTS)
    state = {name: np.full((*each.shape, 2), 0.01) for name, each in parent.items()}
    keys = [f"aggregates/{model.pk}/round-000001.{kind}safetensors" for kind in ("", "optimizer.")]
    for key, stored in zip(keys, (parent, state), strict=True):
        put(key, safetensors.numpy.save(stored))
    ModelAggregate.objects.create(
        federated_model=model,
        number=1,
        result=keys[0],
        server_optimizer="fedadam",
        optimizer_state=keys[1],
    )
    good, bad, last = (tensors(client, TWO_PARTS) for client in (1, 2, 3))
    bad["w"][-1, -1] = np.nan
    ready_update(model, 1, good)
    ready_update(model, 2, bad)
    return model, sqs_event({"Records": [upload(model, 3, last, num_examples=3)]})


def test_a_kill_at_any_step_does_not_change_the_result(function: WarmFunction) -> None:
    """After a kill before any step, the round ends with the same bytes of the aggregate and of the
    optimizer's state, and each update is settled once."""
    model, event = an_upload()
    function.answer("settle", events=[event])
    undisturbed = end_state(model)
    assert [update[1] for update in undisturbed["updates"]] == ["COMPLETE", "INVALID", "COMPLETE"]
    assert all(state for *_, state in undisturbed["aggregates"])
    killed_at: list[str] = []
    for batch in itertools.count():
        steps = range(batch * AT_ONCE + 1, (batch + 1) * AT_ONCE + 1)
        uploads = [an_upload() for _ in steps]
        started = [
            function.start("invoke", at=step, event=event)
            for step, (_, event) in zip(steps, uploads, strict=True)
        ]
        outcomes = [process.wait() for process in started]
        assert {outcome.ended for outcome in outcomes} <= {0, "SIGKILL"}
        expire_leases()
        events = [event for _, event in uploads]
        function.answer("settle", events=events, tick_first=batch % 2 == 1)
        for (model, _), outcome in zip(uploads, outcomes, strict=True):
            assert end_state(model) == undisturbed, outcome
        killed_at += [outcome.at for outcome in outcomes if outcome.ended == "SIGKILL"]
        if len(killed_at) < (batch + 1) * AT_ONCE:
            break
    assert len(killed_at) > 35
    assert {"INSERT modelupdate", "COMMIT", "CompleteMultipartUpload", "answer"} <= set(killed_at)
    assert orphans()
    call_command("sweep", older_than=0)
    assert orphans() == []


def ready() -> tuple[FederatedModel, Any]:
    """Create a model with three updates, and the message that requests a round."""
    model = make_model(3)
    for client in (1, 2, 3):
        ready_update(model, client, tensors(client))
    return model, sqs_event({"model_id": model.pk})


def test_parts_of_a_killed_attempt_are_not_stored_again(function: WarmFunction) -> None:
    """The attempt after a kill reuses all stored parts except the last."""
    model, event = ready()
    killed = function.run("invoke", at="CompleteMultipartUpload", event=event)
    assert killed.steps.count("UploadPart") == 3
    expire_leases()
    second = function.run("invoke", event=event)
    assert second.steps.count("UploadPart") == 1
    assert "CreateMultipartUpload" not in second.steps
    assert model.aggregates.count() == 1


def test_parts_with_a_deleted_update_are_computed_again(function: WarmFunction) -> None:
    """If an update was deleted before a round resumes, the aggregate is that of the other updates."""
    expected, event = ready()
    expected.model_updates.get(client=client_id(2)).delete()
    function.answer("settle", events=[event])
    model, event = ready()
    function.run("invoke", at="CompleteMultipartUpload", event=event)
    default_storage.delete(model.model_updates.get(client=client_id(2)).data.name)
    expire_leases()
    function.answer("settle", events=[event])
    assert end_state(model)["aggregates"] == end_state(expected)["aggregates"]
    assert [update[1] for update in end_state(model)["updates"]] == [
        "COMPLETE",
        "INVALID",
        "COMPLETE",
    ]
    ended = model.rounds.get()
    assert (ended.state, ended.attempt) == (AggregationRound.State.PUBLISHED, 2)


def test_a_round_that_kills_its_function_fails(function: WarmFunction) -> None:
    """After five attempts without progress the round fails, and its updates are ready again."""
    model, event = ready()
    for _ in range(5):
        assert function.run("invoke", at="CreateMultipartUpload", event=event).ended == "SIGKILL"
        expire_leases()
    function.answer("invoke", event=event)
    assert model.rounds.get().error == "given up: 5 attempts in a row made no progress"
    function.answer("tick")
    assert [update[1] for update in end_state(model)["updates"]] == ["COMPLETE"] * 3


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("at", ["GetObject 4", "GetObject 5"])
def test_an_object_deleted_during_a_round_is_left_out(function: WarmFunction, at: str) -> None:
    """An update whose object is deleted during the round is INVALID, and the round publishes the others."""
    model, event = ready()
    for update in model.model_updates.all():
        stored = default_storage.connection.meta.client.head_object(
            Bucket=default_storage.bucket_name, Key=update.data.name
        )
        update.size, update.etag = stored["ContentLength"], stored["ETag"].strip('"')
        update.save()
    process = function.start("invoke", at=at, signal="SIGSTOP", event=event)
    assert process.wait().ended == "SIGSTOP"
    default_storage.delete(model.model_updates.get(client=client_id(1)).data.name)
    assert process.resume().ended == 0
    assert [update[1] for update in end_state(model)["updates"]] == [
        "INVALID",
        "COMPLETE",
        "COMPLETE",
    ]
    assert model.rounds.get().state == AggregationRound.State.PUBLISHED
