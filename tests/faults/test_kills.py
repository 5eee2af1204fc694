"""The process is killed at every step of a round, and nothing comes of it but a delay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command

from models_app.models import FederatedModel
from tests.factories import make_model, sqs_event, upload
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
    print(len(killed_at), killed_at)
    assert len(killed_at) > 40
    assert {"INSERT modelupdate", "COMMIT", "CompleteMultipartUpload", "answer"} <= set(killed_at)
    assert leftovers()
    call_command("sweep", older_than=-1)
    assert leftovers() == []
