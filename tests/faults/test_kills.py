"""The process is killed at every step of a round, and nothing comes of it but a delay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.core.management import call_command

from models_app.models import AggregationRound, FederatedModel
from tests.factories import client_id, make_model, ready_update, sqs_event, upload
from tests.faults.processes import WarmFunction
from tests.faults.world import end_state, expire_leases, leftovers, tensors

pytestmark = pytest.mark.usefixtures("database", "cloud")


def three_uploads() -> tuple[FederatedModel, Any]:
    """A model, and the batch that announces updates of its three clients: that of the second is bad,
    which shows in the last of several parts."""
    model = make_model(3, requirement="require_x_updates", requirement_args=[2])
    bad = tensors(2)
    bad["w"][-1, -1] = np.nan
    records = [
        upload(model, client, values, num_examples=client, name=f"{client}.safetensors")
        for client, values in enumerate((tensors(1), bad, tensors(3)), 1)
    ]
    return model, sqs_event(*({"Records": [record]} for record in records))


def test_killed_at_any_step_it_ends_as_if_undisturbed(function: WarmFunction) -> None:
    """Killed before any of its steps, a batch of uploads ends with the same aggregate, to the byte, and
    every update settled once, whether the message comes again or the schedule ticks first."""
    model, event = three_uploads()
    function.answer("settle", events=[event])
    undisturbed = end_state(model)
    assert [update[1] for update in undisturbed["updates"]] == ["COMPLETE", "INVALID", "COMPLETE"]
    killed_at = []
    for step in itertools.count(1):
        model, event = three_uploads()
        outcome = function.run("invoke", at=step, event=event)
        if outcome.ended == 0:
            break
        assert outcome.ended == "SIGKILL"
        killed_at.append(outcome.at)
        expire_leases()
        if step % 2:
            function.answer("tick")
        function.answer("settle", events=[event])
        assert end_state(model) == undisturbed, f"killed before step {step}, {outcome.at}"
    assert len(killed_at) > 40
    assert {"INSERT modelupdate", "COMMIT", "CompleteMultipartUpload", "answer"} <= set(killed_at)
    assert leftovers()
    call_command("sweep", older_than=-1)
    assert leftovers() == []


def ready() -> tuple[FederatedModel, Any]:
    """A model with three updates, and the message that asks for a round."""
    model = make_model(3)
    for client in (1, 2, 3):
        ready_update(model, client, tensors(client))
    return model, sqs_event({"model_id": model.pk})


def test_what_a_killed_attempt_stored_is_not_stored_again(function: WarmFunction) -> None:
    """Killed with its last part stored, an attempt leaves to the next all parts but that one."""
    model, event = ready()
    killed = function.run("invoke", at="CompleteMultipartUpload", event=event)
    assert killed.steps.count("UploadPart") == 3
    expire_leases()
    second = function.run("invoke", event=event)
    assert second.steps.count("UploadPart") == 1
    assert "CreateMultipartUpload" not in second.steps
    assert model.aggregates.count() == 1


def test_parts_made_with_an_update_that_is_gone_are_made_again(function: WarmFunction) -> None:
    """Where an update can no longer be read when a round is gone on with, the parts that have it in are
    not used, and the aggregate is that of the updates that are left."""
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
    held = model.rounds.get()
    assert (held.state, held.attempt) == (AggregationRound.State.PUBLISHED, 2)


def test_a_round_that_kills_its_function_is_given_up(function: WarmFunction) -> None:
    """After five attempts in a row that die without a part of the result, the round has failed, which
    says so, and its updates are ready for another."""
    model, event = ready()
    for _ in range(5):
        assert function.run("invoke", at="CreateMultipartUpload", event=event).ended == "SIGKILL"
        expire_leases()
    function.answer("invoke", event=event)
    assert model.rounds.get().error == "given up: 5 attempts ended without a part of the result"
    function.answer("tick")
    assert [update[1] for update in end_state(model)["updates"]] == ["COMPLETE"] * 3
