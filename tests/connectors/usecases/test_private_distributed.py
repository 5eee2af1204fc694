"""A private round that several functions share: the seed travels encrypted, and the noise is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from connectors import application
from connectors.usecases.verify import verify
from models_app.models import FederatedModel
from tests.connectors.usecases.executions import Executions, shared_by
from tests.factories import ready_update
from tests.faults.federation import expire_leases, tensors
from tests.faults.processes import PART_BYTES
from tests.private_models import account, key_file, private_model, readable_results
from tests.test_lambda_handler import invoke, scheduled

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Executions]:
    """Let three functions share each round of three parts."""
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    with key_file(tmp_path), shared_by(3, monkeypatch) as executions:
        yield executions


def model_with_updates() -> FederatedModel:
    model = private_model(5, initial=tensors(0), requirement="all_clients")
    for client in range(1, 6):
        update = ready_update(model, client, tensors(client))
        stored = application.objects().stat(str(update.data.name))
        update.size, update.etag = stored.size, stored.etag
        update.save()
    return model


def test_the_plan_has_the_seed_encrypted_only(shared: Executions) -> None:
    """Neither the plan nor anything beside it contains the seed; the workers decrypt it."""
    model = model_with_updates()
    assert invoke(scheduled(model))["status"] == "busy"
    sealed = model.rounds.get().sealed_seed
    seed = application.private_rounds().vault.open(model.pk, sealed)
    objects = application.objects()
    plans = {each.key: objects.read(each.key) for each in objects.listing("plans/")}
    assert any(sealed.encode() in body for body in plans.values())
    assert not any(seed in body or seed.hex().encode() in body for body in plans.values())
    assert shared.run()["status"] == "published"
    assert set(shared.tasks) >= {"measure", "combine", "publish"}


def test_several_functions_release_the_noise_of_one(shared: Executions) -> None:
    """The aggregate of several functions is what one process computes from the seed, charged once."""
    model = model_with_updates()
    invoke(scheduled(model))
    assert shared.run()["status"] == "published"
    private = application.private_rounds()
    verify(application.weights(), model.aggregates.get(), private=private)
    assert len(readable_results(model)) == 1
    assert account(model) == pytest.approx(1.0, abs=1e-9)


def test_a_later_attempt_completes_the_result(shared: Executions) -> None:
    """A round that another attempt resumes is released under that attempt's lease."""
    model = model_with_updates()
    invoke(scheduled(model))
    assert not readable_results(model)
    assert account(model) == pytest.approx(1.0, abs=1e-9)
    expire_leases()
    assert invoke(scheduled(model))["status"] == "busy"
    assert shared.run()["status"] == "published"
    assert model.rounds.get().attempt == 2
    assert account(model) == pytest.approx(1.0, abs=1e-9)


def test_a_task_without_the_key_releases_nothing(shared: Executions) -> None:
    """If the seed is lost, the round fails, its charge is returned, and the reason is recorded."""
    model = model_with_updates()
    invoke(scheduled(model))
    Path(settings.PRIVACY_KEY).write_bytes(bytes(32))
    assert shared.run()["status"] == "failed"
    assert "PRIVACY_KEY is another key" in model.rounds.get().error
    assert not readable_results(model)
    assert account(model) == 0
