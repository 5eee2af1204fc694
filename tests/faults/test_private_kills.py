"""Killing the process at any step of a private round reveals nothing, and loses nothing of the account."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors import application
from connectors.usecases.verify import verify
from models_app.models import FederatedModel
from tests.factories import ready_update, sqs_event, upload
from tests.faults.federation import TWO_PARTS, end_state, expire_leases, tensors
from tests.faults.processes import WarmFunction, warm_function
from tests.private_models import account, key_file, private_model, readable_results

pytestmark = pytest.mark.usefixtures("database", "cloud")

#: Processes that are killed at the same time, each in a separate round.
AT_ONCE = 6


@pytest.fixture(scope="module")
def private_function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmFunction]:
    """Yield a warm function that has the key of the seeds, as this process has."""
    folder = tmp_path_factory.mktemp("private")
    with key_file(folder) as key, warm_function(folder, PRIVACY_KEY=key) as function:
        yield function


def an_upload() -> tuple[FederatedModel, Any]:
    """Create a private model with two ready updates and the message of a third; the second is bad in its
    last part. Its optimizer has a state."""
    model = private_model(
        3,
        initial=tensors(0, TWO_PARTS),
        requirement="require_x_updates",
        requirement_args=[2],
        server_optimizer="fedadam",
    )
    good, bad, last = (tensors(client, TWO_PARTS) for client in (1, 2, 3))
    bad["w"][-1, -1] = np.nan
    for client, sent in ((1, good), (2, bad)):
        update = ready_update(model, client, sent)
        stored = application.objects().stat(str(update.data.name))
        update.size, update.etag = stored.size, stored.etag
        update.save()
    return model, sqs_event({"Records": [upload(model, 3, last)]})


def released(model: FederatedModel) -> tuple[set[str], set[str]]:
    """Return the digests of all readable aggregates, and of all readable states of the optimizer."""
    results = readable_results(model)
    states = {digest for key, digest in results.items() if "optimizer" in key}
    return set(results.values()) - states, states


def killed_at(function: WarmFunction, steps: Sequence[int | str]) -> list[str]:
    """Kill a round before each of these steps, let it continue, and check what is readable and charged.

    At every moment the account has been charged for what is readable. In the end all readable results have
    the same bytes, which follow from the seed, and one charge.
    """
    uploads = [an_upload() for _ in steps]
    started = [
        function.start("invoke", at=step, event=event)
        for step, (_, event) in zip(steps, uploads, strict=True)
    ]
    outcomes = [process.wait() for process in started]
    for (model, _), outcome in zip(uploads, outcomes, strict=True):
        assert account(model) >= len(released(model)[0]), outcome
    expire_leases()
    function.answer("settle", events=[event for _, event in uploads])
    for (model, _), outcome in zip(uploads, outcomes, strict=True):
        statuses = [update[1] for update in end_state(model)["updates"]]
        assert statuses == ["COMPLETE", "INVALID", "COMPLETE"], outcome
        aggregates, states = released(model)
        assert (len(aggregates), len(states)) == (1, 1), outcome
        assert account(model) == pytest.approx(1.0, abs=1e-9), outcome
        private = application.private_rounds()
        verify(application.weights(), model.aggregates.get(), private=private)
    return [outcome.at for outcome in outcomes if outcome.ended == "SIGKILL"]


#: The steps around the charge, the release and the publication.
DECISIVE = [
    "INSERT aggregationround",
    "CreateMultipartUpload",
    "UPDATE aggregationround 1",
    "CompleteMultipartUpload 1",
    "CompleteMultipartUpload 2",
    "INSERT modelaggregate",
]


def test_a_kill_around_the_release_releases_one_noise_and_keeps_its_charge(
    private_function: WarmFunction,
) -> None:
    """The process is killed before the charge, the release or the publication of a private round."""
    assert len(killed_at(private_function, DECISIVE)) == len(DECISIVE)


@pytest.mark.exhaustive
def test_a_kill_at_any_step_releases_one_noise_and_keeps_its_charge(
    private_function: WarmFunction,
) -> None:
    """The process is killed before each step of a private round in turn."""
    killed: list[str] = []
    for batch in itertools.count():
        found = killed_at(
            private_function, list(range(batch * AT_ONCE + 1, (batch + 1) * AT_ONCE + 1))
        )
        killed += found
        if len(found) < AT_ONCE:
            break
    assert len(killed) > 40
    assert {"UPDATE aggregationround", "COMMIT", "CompleteMultipartUpload"} <= set(killed)


def test_the_key_file_is_read_by_the_function(
    private_function: WarmFunction, tmp_path: Path
) -> None:
    """A function with another key cannot decrypt the seeds, says so, and releases nothing."""
    model, event = an_upload()
    killed = private_function.run("invoke", at="CreateMultipartUpload", event=event)
    assert killed.ended == "SIGKILL"
    expire_leases()
    folder = tmp_path / "other"
    folder.mkdir()
    with key_file(folder) as key, warm_function(folder, PRIVACY_KEY=key) as other:
        answer = other.answer("invoke", event=event)
    assert "PRIVACY_KEY is another key" in str(answer) + model.rounds.get().error
    assert not readable_results(model)
    assert account(model) == 0
