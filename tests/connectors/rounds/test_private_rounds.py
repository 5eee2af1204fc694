"""The privacy account: charged at the claim, returned only if nothing became readable."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from aggregation.errors import Conflict
from aggregation.round import Claim, RoundAnswer, Status, run_round
from connectors import application
from connectors.rounds.connector import DjangoRoundConnector
from connectors.rounds.private import BudgetSpent
from models_app.models import AggregationRound, FederatedModel, ModelUpdate
from tests.connectors.rounds.test_concurrent_rounds import (
    in_thread,
    on_postgres,
    wait_until_blocked,
)
from tests.factories import filled, make_model, ready_update
from tests.faults.federation import expire_leases
from tests.private_models import (
    PRIVACY,
    account,
    epsilon_of,
    key_file,
    private_model,
    readable_results,
)
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud")

State = AggregationRound.State


@pytest.fixture(autouse=True)
def key(tmp_path: Path) -> Iterator[str]:
    """The key of the seeds."""
    with key_file(tmp_path) as path:
        yield path


@pytest.fixture
def connector() -> DjangoRoundConnector:
    return application.round_connector()


def update(model: FederatedModel, client: int, tensors: Any = None) -> ModelUpdate:
    """Store and register an update, with the ETag that intake would record."""
    found = ready_update(model, client, filled(1.0) if tensors is None else tensors)
    stored = application.objects().stat(str(found.data.name))
    found.size, found.etag = stored.size, stored.etag
    found.save()
    return found


def ready_model(clients: int = 2, **fields: Any) -> FederatedModel:
    """Create a private model with a ready update of each client."""
    model = private_model(clients, **fields)
    for client in range(1, clients + 1):
        update(model, client)
    return model


def claimed(connector: DjangoRoundConnector, model: FederatedModel) -> Claim:
    claim = connector.claim_round(model.pk)
    assert isinstance(claim, Claim), claim
    return claim


def test_a_round_is_charged_when_it_is_claimed(connector: DjangoRoundConnector) -> None:
    """A claim charges 1/z², raised by what the accounting documents, and keeps the seed encrypted."""
    model = ready_model()
    claim = claimed(connector, model)
    assert 1.0 <= account(model) <= 1.0 + 1e-9
    assert claim.rule.is_private
    assert len(connector.open_seed(claim)) == 32
    assert connector.open_seed(claim) not in claim.sealed_seed.encode()


def test_a_changed_multiplier_adds_its_own_charge(connector: DjangoRoundConnector) -> None:
    """The account sums 1/z² over rounds with different noise."""
    model = ready_model()
    run_round(connector, model.pk)
    model.differential_privacy = {**PRIVACY, "noise_multiplier": 2.0}
    model.save()
    update(model, 1)
    run_round(connector, model.pk)
    assert account(model) == pytest.approx(1.25, abs=1e-9)


def test_a_claim_above_the_limit_pauses_the_model(connector: DjangoRoundConnector) -> None:
    """A claim that would exceed max_epsilon is refused; the model is paused, and nothing is charged."""
    model = ready_model(privacy={"max_epsilon": 4.4})
    run_round(connector, model.pk)
    update(model, 1)
    answer = connector.claim_round(model.pk)
    assert isinstance(answer, RoundAnswer)
    assert (answer.status, answer.pauses) == (Status.PAUSED, True)
    model.refresh_from_db()
    assert not model.allow_aggregation
    assert "epsilon to 6.57" in model.pause_reason
    assert "for adding or removing one client" in model.pause_reason
    assert account(model) == pytest.approx(1.0)
    assert epsilon_of(model) <= 4.4
    assert model.rounds.count() == 1


def test_a_round_that_fails_before_its_upload_is_not_charged(
    connector: DjangoRoundConnector,
) -> None:
    """The charge of a round is returned if no result of it could be read."""
    model = ready_model()
    connector.fail_round(claimed(connector, model), ValueError("a defect"))
    assert account(model) == 0
    connector.reject_round(claimed(connector, model), {}, "too few")
    assert account(model) == 0


def test_a_round_that_fails_after_its_upload_stays_charged(
    connector: DjangoRoundConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the upload was about to be completed, the charge stays, although nothing is published."""
    model = ready_model()

    def refuse(*args: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(DjangoRoundConnector, "publish_round", refuse)
    with pytest.raises(ValueError, match="a defect"):
        run_round(connector, model.pk)
    assert model.rounds.get().state == State.FAILED
    assert readable_results(model)
    assert account(model) == pytest.approx(1.0)


def test_a_retry_releases_the_same_noise(
    connector: DjangoRoundConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second attempt with the same updates stores the same bytes, and is not charged again."""
    model = ready_model()
    publish = DjangoRoundConnector.publish_round
    monkeypatch.setattr(DjangoRoundConnector, "publish_round", _killed)
    with pytest.raises(KeyboardInterrupt):
        run_round(connector, model.pk)
    monkeypatch.setattr(DjangoRoundConnector, "publish_round", publish)
    model.rounds.update(checkpoint=None)  # As if the first attempt had saved none.
    expire_leases()
    run_round(application.round_connector(), model.pk)
    results = readable_results(model)
    assert (len(results), len(set(results.values()))) == (2, 1)
    assert account(model) == pytest.approx(1.0)


def _killed(*args: Any) -> None:
    raise KeyboardInterrupt


def test_another_set_of_updates_is_charged_again_and_has_other_noise(
    connector: DjangoRoundConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an update is gone after a result became readable, the second result counts as well."""
    model = ready_model(3)
    publish = DjangoRoundConnector.publish_round
    monkeypatch.setattr(DjangoRoundConnector, "publish_round", _killed)
    with pytest.raises(KeyboardInterrupt):
        run_round(connector, model.pk)
    monkeypatch.setattr(DjangoRoundConnector, "publish_round", publish)
    default_storage.delete(model.model_updates.last().data.name)  # type: ignore[union-attr]
    model.rounds.update(checkpoint=None)
    expire_leases()
    assert run_round(application.round_connector(), model.pk).updates_used == 2
    assert len(set(readable_results(model).values())) == 2
    assert account(model) == pytest.approx(2.0)


def test_a_second_set_above_the_limit_is_not_released(connector: DjangoRoundConnector) -> None:
    """A further set of updates whose charge would exceed the limit becomes readable nowhere."""
    model = ready_model(privacy={"max_epsilon": 5.0})
    claim = claimed(connector, model)
    connector.ledger.count_release(claim, "a")
    connector.ledger.count_release(claim, "a")
    with pytest.raises(BudgetSpent, match="max_epsilon is 5"):
        connector.ledger.count_release(claim, "b")
    assert account(model) == pytest.approx(1.0)


def test_an_attempt_without_the_lease_releases_nothing(connector: DjangoRoundConnector) -> None:
    """A late attempt completes no upload after the round was failed and its charge returned."""
    model = ready_model()
    claim = claimed(connector, model)
    late = connector.new_result(claim, "safetensors", None)
    late.write_part(1, b"a result", last=True)
    connector.fail_round(claim, ValueError("a defect"))
    with pytest.raises(Conflict, match="no longer holds"):
        late.complete()
    assert not readable_results(model)
    assert account(model) == 0


def test_statements_are_constant(connector: DjangoRoundConnector) -> None:
    """A private round takes seven statements more than another one, however many updates it has."""

    def statements(model: FederatedModel) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert run_round(connector, model.pk).status is Status.PUBLISHED
        return len(captured)

    plain = make_model(2, initial=filled(0.0), aggregator="unweighted_mean")
    for client in (1, 2):
        update(plain, client)
    counts = [statements(ready_model(clients)) for clients in (2, 9)]
    assert counts == [statements(plain) + 7] * 2


def test_an_update_without_an_etag_is_rejected(connector: DjangoRoundConnector) -> None:
    """One noise must fit one content, and without an ETag the object may be replaced between attempts."""
    model = ready_model()
    unknown = ready_update(model, 2, filled(1.0))
    ModelUpdate.objects.filter(federated_model=model).exclude(pk=unknown.pk).filter(
        client=unknown.client
    ).delete()
    assert run_round(connector, model.pk).updates_used == 1
    unknown.refresh_from_db()
    assert unknown.rejection_reason.startswith("its ETag is not known")


def test_an_update_that_must_be_unpacked_is_rejected(connector: DjangoRoundConnector) -> None:
    """The space for unpacking is shared, and no update may lead to the rejection of another."""
    import io

    import numpy as np

    model = ready_model(2)
    packed = io.BytesIO()
    np.savez_compressed(packed, **filled(1.0))
    late = ready_update(model, 2, packed.getvalue(), suffix="npz")
    stored = application.objects().stat(str(late.data.name))
    ModelUpdate.objects.filter(pk=late.pk).update(size=stored.size, etag=stored.etag)
    assert run_round(connector, model.pk).updates_used == 1
    late.refresh_from_db()
    assert "need not be unpacked" in late.rejection_reason


def test_a_workflow_cannot_make_aggregates_without_noise() -> None:
    """External rounds of a private model are refused."""
    model = ready_model()
    workflow = application.workflow_connector()
    updates = list(model.model_updates.all())
    with pytest.raises(Conflict, match="only rounds of the function itself add noise"):
        workflow.register_model_updates_for_aggregation(updates)


def test_a_private_model_stays_private(connector: DjangoRoundConnector) -> None:
    """A model that has spent privacy cannot lose its noise; one with plain aggregates cannot get any."""
    model = ready_model()
    run_round(connector, model.pk)
    model.refresh_from_db()
    model.differential_privacy = None
    with pytest.raises(ValidationError, match="stays private"):
        model.save()
    plain = make_model(1, initial=filled(0.0), aggregator="unweighted_mean")
    update(plain, 1)
    run_round(connector, plain.pk)
    plain.refresh_from_db()
    plain.differential_privacy = PRIVACY
    with pytest.raises(ValidationError, match="aggregates without noise"):
        plain.save()


def test_a_round_without_noise_is_not_published_by_a_private_model(
    connector: DjangoRoundConnector,
) -> None:
    """A round that was claimed before the model became private publishes nothing."""
    model = make_model(1, initial=filled(0.0), aggregator="unweighted_mean")
    update(model, 1)
    claim = claimed(connector, model)
    model.refresh_from_db()
    model.differential_privacy = PRIVACY
    with pytest.raises(ValidationError, match="a round without noise is running"):
        model.save()
    FederatedModel.objects.filter(pk=model.pk).update(differential_privacy=PRIVACY)
    with pytest.raises(Conflict, match="has become private"):
        run_claim(connector, claim)


def run_claim(connector: DjangoRoundConnector, claim: Claim) -> None:
    from aggregation.engine import DEFAULT_RESOURCES
    from aggregation.round.attempt import Attempt

    attempt = Attempt(connector, claim, DEFAULT_RESOURCES, lambda: False)
    connector.publish_round(claim, attempt.combine())


@on_postgres
def test_noise_is_not_switched_off_while_a_round_is_claimed(
    connector: DjangoRoundConnector,
) -> None:
    """A change waits for a claim at the same time, and finds its charge."""
    model = ready_model()

    def switch_off() -> None:
        changed = FederatedModel.objects.get(pk=model.pk)
        changed.differential_privacy = None
        changed.save(update_fields=["differential_privacy"])

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        claimed(connector, model)
        switching = pool.submit(in_thread(switch_off))
        wait_until_blocked()
    assert isinstance(switching.exception(), ValidationError)
    model.refresh_from_db()
    assert model.differential_privacy == PRIVACY
