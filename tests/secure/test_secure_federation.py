"""Secure aggregation from the clients' library to the aggregate, with the function and the mask keeper."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.exceptions import ValidationError

from aggregation.errors import Conflict
from connectors.rounds.external import ExternalRounds
from connectors.rounds.memberships import Memberships
from federated_client import BadArgument, Bucket, Client
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from tests import factories
from tests.factories import client_id
from tests.secure.world import INITIAL, SecureFederation, secure_settings


def reasons() -> list[str]:
    """Return the reasons for which updates were rejected."""
    rejected = ModelUpdate.objects.filter(status=ModelUpdate.Status.INVALID)
    return list(rejected.order_by("pk").values_list("rejection_reason", flat=True))


def test_a_round_of_masked_updates(federation: SecureFederation) -> None:
    """Three clients send; the keeper is asked once; the aggregate is the mean, and a round follows."""
    for number, change in ((1, 0.25), (2, 0.5), (3, 0.75)):
        federation.send(number, change)
    federation.deliver()
    assert AggregationRound.objects.get().state == AggregationRound.State.RUNNING
    assert federation.keep() == 1
    federation.finish()
    found = federation.latest()
    assert np.array_equal(found["w"], INITIAL["w"] + np.float32(0.5))
    assert np.array_equal(found["b"], INITIAL["b"] + np.float32(0.5))
    assert np.array_equal(found["steps"], INITIAL["steps"])
    made_by = AggregationRound.objects.get()
    assert (made_by.updates_used, made_by.updates_rejected) == (3, 0)
    for number in (2, 4, 5):
        federation.send(number, -0.5)
    federation.finish()
    assert ModelAggregate.objects.count() == 2
    assert np.array_equal(federation.latest()["w"], found["w"] - np.float32(0.5))


def test_updates_in_the_bucket_cannot_be_read(federation: SecureFederation) -> None:
    """What lies in the bucket has only random tensors, and the same update differs each time."""
    keys = [federation.send(1, 0.25), federation.send(1, 0.25)]
    first, second = (safetensors.numpy.load(factories.get(key)) for key in keys)
    assert first["w"].dtype == np.uint32
    assert not np.any(first["w"] == second["w"])
    assert "steps" not in first


def test_updates_are_clipped_by_the_client(federation: SecureFederation) -> None:
    """A difference of a larger norm than clip_norm is scaled down to it."""
    for number in (1, 2, 3):
        federation.send(number, 100.0)
    federation.finish()
    found = federation.latest()
    moved = np.concatenate([(found[n] - INITIAL[n]).ravel() for n in ("w", "b")])
    assert np.linalg.norm(moved) == pytest.approx(8.0, rel=1e-4)


def test_a_client_that_is_not_registered_is_rejected(federation: SecureFederation) -> None:
    """The reason is in its status, and the others' sum is computed without it."""
    for number in (1, 2, 3):
        federation.send(number, 0.5)
    federation.table.revoke(str(client_id(2)))
    federation.finish()
    assert ModelUpdate.objects.filter(status=ModelUpdate.Status.INVALID).count() == 1
    assert "not registered" in reasons()[0]
    # Two are left of the three that the requirement needs: they are ready, and were not spent.
    assert ModelAggregate.objects.count() == 0
    federation.send(4, 0.5)
    federation.finish()
    assert ModelAggregate.objects.get().round.updates_used == 3


def test_a_round_waits_for_its_keeper_and_is_resumed_by_the_sweep(
    federation: SecureFederation,
) -> None:
    """While the keeper does not answer, attempts do not count as failures, and a sweep asks again."""
    from connectors import application
    from connectors.usecases.sweep import sweep

    sqs = federation.cloud.client("sqs")
    for number in (1, 2, 3):
        federation.send(number, 0.5)
    federation.deliver()
    sqs.purge_queue(QueueUrl=federation.keeper_queue)  # The request is lost.
    runner = application.round_runner(application.telemetry)
    for _ in range(7):
        outcome = sweep(runner, application.telemetry, collect=False)
        assert outcome.due == [federation.model.pk]
    waiting = AggregationRound.objects.get()
    assert (waiting.state, waiting.attempts_without_progress) == (0, 0)
    federation.finish()
    assert ModelAggregate.objects.count() == 1


def test_a_queue_that_is_gone_suspends_the_round(federation: SecureFederation) -> None:
    """A keeper that cannot be asked is one that does not answer: no update is lost."""
    from connectors import application

    sqs = federation.cloud.client("sqs")
    name = federation.keeper_queue.rsplit("/", 1)[1]
    sqs.delete_queue(QueueUrl=federation.keeper_queue)
    for number in (1, 2, 3):
        federation.send(number, 0.5)
    federation.deliver()
    runner = application.round_runner(application.telemetry)
    answer = runner.run_one(federation.model.pk)
    assert "cannot be asked" in answer.reason
    sqs.create_queue(QueueName=name)
    runner.run_one(federation.model.pk)
    federation.finish()
    assert ModelAggregate.objects.count() == 1


def test_weights_are_masked_with_the_updates(federation: SecureFederation) -> None:
    """The weighted mean counts examples up to max_num_examples."""
    federation.change(aggregator="weighted_mean", max_num_examples=4)
    for number, count, change in ((1, 1, 0.25), (2, 3, 0.5), (3, 1000, 0.75)):
        federation.send(number, change, count)
    federation.finish()
    expected = (0.25 + 3 * 0.5 + 4 * 0.75) / 8
    assert np.allclose(federation.latest()["b"], INITIAL["b"] + expected, atol=1e-4)


def test_a_plain_update_is_refused_by_the_client_and_at_intake(
    federation: SecureFederation,
) -> None:
    """The library sends nothing readable, and an update that was sent without it is rejected."""
    plain = Client(
        Bucket(federation.cloud.bucket, federation.cloud.client("s3")),
        model_id=federation.model.pk,
        client_id=client_id(1),
    )
    weights = plain.fetch()
    with pytest.raises(BadArgument, match="private=True"):
        plain.upload(weights, num_examples=1)
    factories.upload(federation.model, 1, INITIAL)
    federation.finish()
    assert "the model takes masked updates" in reasons()[0]


def test_a_private_client_sends_nothing_to_a_model_without_masks(
    federation: SecureFederation,
) -> None:
    """An aggregator that switches masks off gets no readable update."""
    client = federation.client(1)
    weights = client.fetch()
    federation.change(secure_aggregation={})
    with pytest.raises(BadArgument, match="was not sent"):
        client.upload(weights, num_examples=1)


def test_another_keeper_is_refused_by_the_client(federation: SecureFederation) -> None:
    """An aggregator that puts its own key in the place of the keeper's gets nothing."""
    client = federation.client(1)
    client.upload(client.fetch(), num_examples=1)
    other = secure_settings("ab" * 32, queue=federation.keeper_queue)
    federation.change(secure_aggregation=other)
    with pytest.raises(BadArgument, match="mask keeper is now abab"):
        client.upload(client.fetch(), num_examples=1)
    identity = client._identity
    assert identity is not None
    identity.trust(federation.model.pk, "ab" * 32)
    client.upload(client.fetch(), num_examples=1)


def test_masked_updates_cannot_be_compressed(federation: SecureFederation) -> None:
    """Random bytes have no shorter form."""
    client = federation.client(1)
    with pytest.raises(BadArgument, match="cannot be compressed"):
        client.upload(client.fetch(), num_examples=1, compression="int8")


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"num-examples": "2", "claimed": "x"}, "weight"),
        ({"base-aggregate": "9"}, "no aggregate of this model"),
    ],
)
def test_metadata_must_say_what_was_signed(
    federation: SecureFederation, metadata: dict[str, str], why: str
) -> None:
    """Anyone who writes to the bucket can change an object's metadata, but not the signed header."""
    federation.change(aggregator="weighted_mean", max_num_examples=4)
    key = federation.send(1, 0.5)
    body = factories.get(key)
    factories.put(key.replace("round", "changed"), body, {"num-examples": "1", **metadata})
    federation.finish()
    assert why in " ".join(reasons())


def test_an_update_is_rejected_under_the_prefix_of_another_client(
    federation: SecureFederation,
) -> None:
    """A copied update keeps its author."""
    key = federation.send(1, 0.5)
    copied = key.replace(str(client_id(1)), str(client_id(2)))
    factories.put(copied, factories.get(key), {"num-examples": "1"})
    federation.finish()
    assert "the signed header says client" in reasons()[0]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"aggregator": "krum", "aggregator_args": {"f": 1}}, "only their sum"),
        ({"aggregator": "normalized_mean"}, "only their sum"),
        ({"pre_aggregation": ["nnm(f=1)"]}, "steps before the rule"),
        ({"staleness": "polynomial", "staleness_args": {"a": 0.5}, "furthest_base_agg": 3}, "late"),
        ({"freeze": {"odd": ["w"]}, "furthest_base_agg": 1}, "frozen"),
        ({"update_kind": "weights"}, "only differences"),
        ({"aggregator": "weighted_mean"}, "max_num_examples"),
        ({"tensor_policies": [["w", "max"]]}, "maximum"),
        ({"max_functions": 4}, "one function"),
        ({"secure_aggregation": {"keeper": "x", "clip_norm": 1}}, "public key"),
        ({"secure_aggregation": {"keeper": "ab" * 32, "clip_norm": 1}}, "queue is missing"),
    ],
)
def test_settings_that_need_individual_updates_are_refused(
    federation: SecureFederation, fields: dict[str, Any], why: str
) -> None:
    """A model cannot be saved with another rule than a mean, or with what needs individual updates."""
    model = FederatedModel.objects.get(pk=federation.model.pk)
    for name, value in fields.items():
        setattr(model, name, value)
    with pytest.raises(ValidationError, match=why):
        model.save()


def test_a_workflow_cannot_run_rounds_of_masked_updates(federation: SecureFederation) -> None:
    """Step by step, updates would be opened one by one: they are refused with the reason."""
    rounds = ExternalRounds(lambda: timedelta(minutes=1), Memberships())
    updates = [
        ModelUpdate.objects.create(
            federated_model=federation.model, client_id=client_id(1), data="updates/x.safetensors"
        )
    ]
    with pytest.raises(Conflict, match="masked"):
        rounds.open(updates)


def test_an_aggregate_of_masked_updates_is_verified(federation: SecureFederation) -> None:
    """It follows from the masked updates and the sum of their masks; a changed sum is noticed."""
    from connectors import application
    from connectors.usecases.comparison import AuditMismatch
    from connectors.usecases.verify import NotVerifiable, verify

    federation.change(server_optimizer="fedadam")
    for number in (1, 2, 3):
        federation.send(number, number / 4)
    federation.finish()
    aggregate = ModelAggregate.objects.get()
    assert "follow from 3 updates" in verify(application.weights(), aggregate)
    s3, bucket = federation.cloud.client("s3"), federation.cloud.bucket
    found = s3.list_objects_v2(Bucket=bucket, Prefix="masks/")["Contents"]
    (key,) = (each["Key"] for each in found if each["Key"].endswith("sum.u32"))
    changed = bytearray(factories.get(key))
    changed[2] ^= 1
    factories.put(key, bytes(changed))
    with pytest.raises(AuditMismatch):
        verify(application.weights(), aggregate)
    s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(NotVerifiable, match="masks"):
        verify(application.weights(), aggregate)


def test_latest_json_says_how_updates_are_masked(federation: SecureFederation) -> None:
    """Clients read the settings with their defaults; a model without masks says null."""
    key = f"aggregates/{federation.model.pk}/latest.json"
    stated = json.loads(factories.get(key))["secure_aggregation"]
    assert stated["max_cohort"] == 1000
    assert stated["scale"] == 1 << 14
    assert "queue" not in stated
