"""Secure aggregation with differential privacy, from the clients' library to the account."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.exceptions import ValidationError

from aggregation.errors import RuleError
from aggregation.privacy.discrete_gaussian import SIGMA_SQUARED
from aggregation.privacy.noise import Noise
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.round import updates_digest
from aggregation.round.noisy_mean import CLIENT_SLACK, noise_factor
from connectors import application
from connectors.rounds.connector import DjangoRoundConnector
from connectors.rounds.snapshot import claimed_update, config_snapshot_of, secure_terms_of
from connectors.usecases.administration.client_policy import client_policy
from connectors.usecases.administration.models import change_model
from connectors.usecases.comparison import AuditMismatch
from connectors.usecases.verify import NotVerifiable, verify
from models_app.models import AggregationRound, Client, FederatedModel, ModelAggregate
from tests import factories
from tests.faults.federation import expire_leases
from tests.private_models import account, key_file
from tests.secure.world import INITIAL, SecureFederation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

PRIVACY = {
    "clip_norm": 8.0,
    "noise_multiplier": 1.0,
    "cohort": 4,
    "delta": 1e-5,
    "max_epsilon": 20.0,
}


@pytest.fixture
def noisy(federation: SecureFederation, tmp_path: Path) -> Iterator[SecureFederation]:
    """A federation with masked updates and noise."""
    with key_file(tmp_path):
        change_model(federation.model, {"differential_privacy": PRIVACY})
        yield federation


def expected(model: FederatedModel, changes: dict[int, float]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the parent plus (exact sum * factor + noise) / (scale * factor * cohort), by integers."""
    made_by = AggregationRound.objects.get(federated_model=model)
    config = config_snapshot_of(made_by)
    terms = secure_terms_of(config)
    assert terms is not None
    used = made_by.updates.order_by("client_id").select_related("base_aggregate")
    digest = updates_digest([claimed_update(each, made_by.number, config) for each in used])
    seed = application.private_rounds().vault.open(model.pk, made_by.sealed_seed)
    scale, elements = terms.settings.scale, 91
    factor = noise_factor(DifferentialPrivacy(**PRIVACY), terms.settings, elements)  # type: ignore[arg-type]
    total = sum(round(change * scale) for change in changes.values())
    divisor = scale * factor * 4
    noise = Noise(seed, digest).integers(0, elements).tolist()
    mean = np.array([(total * factor + each) / divisor for each in noise]).astype(np.float32)
    flat = {"b": mean[:10], "w": mean[10:].reshape(9, 9)}
    return {
        name: (INITIAL[name] + values.astype(np.float64)).astype(np.float32)
        for name, values in flat.items()
    }


def test_an_aggregate_is_the_exact_sum_with_noise(noisy: SecureFederation) -> None:
    """It has the bits that integers give, was charged once, and is verified with its noise."""
    changes = {1: 0.25, 2: 0.5, 3: 0.0625}
    for number, change in changes.items():
        noisy.send(number, change)
    noisy.deliver()
    assert account(noisy.model) == pytest.approx(1.0)
    assert AggregationRound.objects.get().privacy_released == ""
    noisy.finish()
    found = noisy.latest()
    for name, tensor in expected(noisy.model, changes).items():
        assert found[name].tobytes() == tensor.tobytes(), name
    assert found["steps"].tobytes() == INITIAL["steps"].tobytes()
    assert account(noisy.model) == pytest.approx(1.0)
    assert len(AggregationRound.objects.get().privacy_released.split()) == 1
    finding = verify(
        application.weights(), ModelAggregate.objects.get(), private=application.private_rounds()
    )
    assert "3 updates by unweighted_mean and noise" in finding
    with pytest.raises(NotVerifiable, match="noise"):
        verify(application.weights(), ModelAggregate.objects.get())


def test_a_changed_sum_of_masks_is_noticed(noisy: SecureFederation) -> None:
    """An aggregate with noise is recomputed from the sum of the masks, too."""
    for number in (1, 2, 3):
        noisy.send(number, 0.25)
    noisy.finish()
    s3, bucket = noisy.cloud.client("s3"), noisy.cloud.bucket
    found = s3.list_objects_v2(Bucket=bucket, Prefix="masks/")["Contents"]
    (key,) = (each["Key"] for each in found if each["Key"].endswith("sum.u32"))
    changed = bytearray(factories.get(key))
    changed[3] ^= 1
    factories.put(key, bytes(changed))
    private = application.private_rounds()
    with pytest.raises(AuditMismatch):
        verify(application.weights(), ModelAggregate.objects.get(), private=private)


def test_a_killed_round_releases_the_same_noise_and_is_charged_once(
    noisy: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its result was readable, the next attempt stores the same bytes."""
    for number in (1, 2, 3):
        noisy.send(number, 0.25)
    noisy.deliver()
    noisy.keep()

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    runner = application.round_runner(application.telemetry)
    with monkeypatch.context() as patched:
        patched.setattr(DjangoRoundConnector, "publish_round", killed)
        with pytest.raises(KeyboardInterrupt):
            runner.run_one(noisy.model.pk)
    first = _readable(noisy)
    assert len(first) == 1
    expire_leases()
    noisy.model.rounds.update(checkpoint=None)
    runner.run_one(noisy.model.pk)
    noisy.finish()
    assert ModelAggregate.objects.count() == 1
    assert len(_readable(noisy)) == 2
    assert len(set(_readable(noisy).values())) == 1
    assert account(noisy.model) == pytest.approx(1.0)


def _readable(federation: SecureFederation) -> dict[str, bytes]:
    """Return the aggregates in the bucket, of whichever attempt."""
    s3, bucket = federation.cloud.client("s3"), federation.cloud.bucket
    prefix = f"aggregates/{federation.model.pk}/round-"
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    keys = [each["Key"] for each in found if each["Key"].endswith(".safetensors")]
    return {key: factories.get(key) for key in keys}


def test_no_object_has_the_sum_without_noise(noisy: SecureFederation) -> None:
    """Of what clients may read, the masked sum looks random, and the sum of the masks is elsewhere."""
    for number in (1, 2, 3):
        noisy.send(number, 0.5)
    noisy.finish()
    total = np.full(91, 3 * (1 << 13), np.uint32)
    s3, bucket = noisy.cloud.client("s3"), noisy.cloud.bucket
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    for key in keys:
        assert total[:8].tobytes() not in factories.get(key), key
    client = Client.objects.get(pk=factories.client_id(1))
    policy = client_policy(noisy.model, client, bucket, "aws")
    readable = [
        resource.split(f"{bucket}/")[1].rstrip("*")
        for statement in policy["Statement"]
        if statement["Action"] == "s3:GetObject"
        for resource in statement["Resource"]
    ]
    sums = [key for key in keys if key.endswith("/sum.u32")]
    assert len(sums) == 1
    assert not [key for key in sums if key.startswith(tuple(readable))]


def test_a_round_that_ends_without_a_result_is_not_charged(noisy: SecureFederation) -> None:
    """The keeper refuses an update, and too few are left: nothing could be read."""
    for number in (1, 2, 3):
        noisy.send(number, 0.5)
    noisy.table.revoke(str(factories.client_id(2)))
    noisy.finish()
    assert ModelAggregate.objects.count() == 0
    assert account(noisy.model) == 0
    noisy.send(4, 0.5)
    noisy.finish()
    assert ModelAggregate.objects.get().round.updates_used == 3
    assert account(noisy.model) == pytest.approx(1.0)


def test_no_client_displaces_another(noisy: SecureFederation) -> None:
    """A round takes all updates, also more than max_cohort: a choice would depend on who else sends."""
    secure = {**noisy.model.secure_aggregation, "max_cohort": 2}
    change_model(noisy.model, {"secure_aggregation": secure})
    for number in (1, 2, 3):
        noisy.send(number, 0.25)
    noisy.finish()
    assert ModelAggregate.objects.get().round.updates_used == 3


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"differential_privacy": {**PRIVACY, "clip_norm": 1.0}}, "give both the same"),
        ({"differential_privacy": {**PRIVACY, "noise_multiplier": 400.0}}, "smaller scale"),
        ({"aggregator": "weighted_mean", "max_num_examples": 9}, "unweighted_mean"),
        ({"tensor_policies": [["b", "average"]]}, "without noise"),
    ],
)
def test_settings_without_a_guarantee_are_refused(
    noisy: SecureFederation, fields: dict[str, Any], why: str
) -> None:
    """They are refused when the model is saved."""
    with pytest.raises(ValidationError, match=why):
        change_model(FederatedModel.objects.get(pk=noisy.model.pk), fields)


def test_a_scale_that_the_size_of_the_model_forbids_is_refused(noisy: SecureFederation) -> None:
    """The rounding of all elements counts, and so the scale is checked with the stored weights."""
    model = FederatedModel.objects.get(pk=noisy.model.pk)
    secure = {**model.secure_aggregation, "scale": 741_000, "max_cohort": 100}
    # The longest difference has 2 units of room for rounding: enough for 1 element, and not for 91.
    longest = 741_000 * 8 * (1 + CLIENT_SLACK) + 2
    multiplier = math.sqrt(SIGMA_SQUARED) * (1 - CLIENT_SLACK) / longest
    privacy = {**PRIVACY, "noise_multiplier": multiplier}
    model.secure_aggregation, model.differential_privacy = secure, privacy
    model.full_clean(validate_unique=False)
    model.refresh_from_db()
    with pytest.raises(RuleError, match="smaller scale"):
        change_model(model, {"secure_aggregation": secure, "differential_privacy": privacy})
