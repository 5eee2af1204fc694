"""Registration of scores: they become the aggregate's validation score, or are rejected."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

import models_app.scores
from aggregation.errors import UpdateRejected
from connectors.intake.results import parse_results
from connectors.usecases.publish import score_refusal
from models_app.models import Client, ClientAggregateScore, FederatedModel, ModelAggregate
from tests.factories import client_id, make_model, put, s3_record
from tests.test_lambda_handler import invoke
from tests.untyped import default_storage

SCHEMA = {
    "type": "object",
    "properties": {"accuracy": {"type": "number", "minimum": 0, "maximum": 1}},
    "required": ["accuracy"],
}

database = pytest.mark.usefixtures("database", "cloud")
_numbers = itertools.count(1)


def scored_model(clients: int = 3, **fields: Any) -> FederatedModel:
    return make_model(clients, **{"score_metric": "accuracy", **fields})


def new_aggregate(
    model: FederatedModel, parent: ModelAggregate | None = None, score: float | None = None
) -> ModelAggregate:
    number = parent.number + 1 if parent else 1
    return ModelAggregate.objects.create(
        federated_model=model,
        parent=parent,
        number=number,
        result=f"aggregates/{model.pk}/{number}.safetensors",
        validation_score=score,
    )


def post(aggregate: ModelAggregate, client: int, results: Any, **place: Any) -> dict[str, Any]:
    """Store a score as a client does, invoke the function, and return the notification."""
    body = results if isinstance(results, bytes) else json.dumps(results).encode()
    model = place.get("model", aggregate.federated_model_id)
    key = place.get("key") or f"scores/{model}/{client_id(client)}/{aggregate.pk}.json"
    event = {"Records": [s3_record(key, put(key, body), len(body))]}
    assert invoke(event) == {"rounds": []}
    return event


def score_of(aggregate: ModelAggregate) -> float | None:
    aggregate.refresh_from_db()
    return aggregate.validation_score


@database
def test_the_score_of_an_aggregate_is_the_mean_weighted_by_examples() -> None:
    """After each score the aggregate's validation score is the weighted mean of all."""
    aggregate = new_aggregate(scored_model())
    post(aggregate, 1, {"num_examples": 10, "accuracy": 0.5})
    assert score_of(aggregate) == 0.5
    post(aggregate, 2, {"num_examples": 30, "accuracy": 0.9, "loss": 0.2})
    assert score_of(aggregate) == pytest.approx(0.8)
    stored = aggregate.client_scores.get(client=client_id(2)).validation_results
    assert stored == {"num_examples": 30, "accuracy": 0.9, "loss": 0.2}


@database
def test_a_score_reads_no_other_score() -> None:
    """With a cap, the mean is updated from the new score alone: a wrong one in the table is not read."""
    aggregate = new_aggregate(scored_model(max_num_examples=100))
    post(aggregate, 1, {"num_examples": 10, "accuracy": 0.5})
    aggregate.client_scores.update(validation_results={"num_examples": 10, "accuracy": 100.0})
    post(aggregate, 2, {"num_examples": 30, "accuracy": 0.9})
    assert score_of(aggregate) == pytest.approx(0.8)


@database
def test_after_a_change_of_the_metric_all_scores_are_averaged() -> None:
    """The mean of one metric is not continued with values of another."""
    aggregate = new_aggregate(scored_model())
    post(aggregate, 1, {"accuracy": 0.5, "loss": 2.0})
    FederatedModel.objects.update(score_metric="loss")
    post(aggregate, 2, {"accuracy": 0.5, "loss": 4.0})
    assert score_of(aggregate) == 3.0


@database
def test_a_second_delivery_changes_nothing() -> None:
    """A second delivery of a notification registers no second score."""
    aggregate = new_aggregate(scored_model())
    event = post(aggregate, 1, {"num_examples": 10, "accuracy": 0.5})
    invoke(event)
    assert aggregate.client_scores.count() == 1
    assert score_of(aggregate) == 0.5


@database
def test_the_first_score_of_a_client_counts() -> None:
    """A later upload under the same key changes nothing."""
    aggregate = new_aggregate(scored_model())
    post(aggregate, 1, {"num_examples": 10, "accuracy": 0.5})
    post(aggregate, 1, {"num_examples": 10, "accuracy": 1.0})
    assert score_of(aggregate) == 0.5


@database
def test_the_examples_of_a_score_are_capped() -> None:
    """No client counts more examples than its model allows."""
    aggregate = new_aggregate(scored_model(max_num_examples=10))
    post(aggregate, 1, {"num_examples": 10**9, "accuracy": 1.0})
    post(aggregate, 2, {"num_examples": 10, "accuracy": 0.0})
    assert score_of(aggregate) == 0.5


@database
def test_a_model_without_a_metric_stores_scores() -> None:
    """The results are stored, and the aggregate has no validation score."""
    aggregate = new_aggregate(scored_model(score_metric=""))
    post(aggregate, 1, {"loss": 0.5})
    assert aggregate.client_scores.count() == 1
    assert score_of(aggregate) is None


@database
@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (b"not json", "not the JSON of a score"),
        (b"\xff\xfe", "not the JSON of a score"),
        (b'{"accuracy": NaN}', "NaN is not a finite number"),
        (b'{"accuracy": 1, "other": 1e999}', "1e999 is not a finite number"),
        (b'{"accuracy": 1, "other": 1e301}', "1e301 is not a finite number up to 1e+300"),
        (b'{"accuracy": 1, "other": [-1' + b"0" * 400 + b"]}", "000"),
        (b'{"accuracy": 1, "other": 1' + b"0" * 5000 + b"}", "not the JSON of a score"),
        (b'{"accuracy": 0.1, "accuracy": 0.9}', "a name is given twice"),
        (b'{"accuracy": 0.1, "note": "\\u0000"}', "a string contains the zero character"),
        (b'{"accuracy": 0.1, "note": "\\ud800"}', "can't encode character"),
        (b'{"accuracy": 0.1, "deep": ' + b"[" * 30 + b"]" * 30 + b"}", "nested deeper than 20"),
        (b"[" * 60_000, "not the JSON of a score"),
        (b"[0.5]", "expected a JSON object"),
        (b" " * 70_000 + b"{}", "70002 bytes, at most 65536 are accepted"),
        ({"accuracy": "high"}, "accuracy must be number"),
        ({"accuracy": 1.5}, "accuracy must be smaller than or equal to 1"),
        ({"loss": 0.1}, "must contain ['accuracy'] properties"),
        ({"accuracy": 0.5, "num_examples": 0}, "expected a whole number from 1"),
        ({"accuracy": 0.5, "num_examples": 1.5}, "expected a whole number from 1"),
        ({"accuracy": 0.5, "num_examples": True}, "expected a whole number from 1"),
        ({"accuracy": 0.5, "num_examples": 10**10}, "expected a whole number from 1"),
    ],
)
def test_an_invalid_score_is_rejected_with_its_reason(
    results: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its reason, and not stored."""
    aggregate = new_aggregate(scored_model(client_agg_results_schema=SCHEMA))
    post(aggregate, 1, results)
    (rejection,) = [
        record for record in caplog.records if record.message.startswith("score rejected")
    ]
    assert reason in rejection.__dict__["reason"].replace("\\'", "'")
    assert not aggregate.client_scores.exists()


@database
def test_without_a_schema_the_metric_must_be_a_number() -> None:
    """A score without the metric, or with anything but a finite number, is rejected."""
    aggregate = new_aggregate(scored_model())
    for client, value in enumerate([None, "0.5", True, [0.5], 10**400], 1):
        post(aggregate, min(client, 3), {"accuracy": value})
    assert not aggregate.client_scores.exists()


@database
def test_numbers_other_than_the_metric_are_bounded() -> None:
    """Any number may become the metric; one that was stored and is too large is left out of the mean."""
    aggregate = new_aggregate(scored_model())
    post(aggregate, 1, {"accuracy": 0.5, "f1": 10**400})
    assert not aggregate.client_scores.exists()
    ClientAggregateScore.objects.create(
        aggregate=aggregate, client_id=client_id(1), validation_results={"f1": 10**400}
    )
    FederatedModel.objects.filter(pk=aggregate.federated_model_id).update(score_metric="f1")
    post(aggregate, 2, {"f1": 0.75})
    assert score_of(aggregate) == 0.75


@database
def test_scores_of_strangers_and_of_foreign_aggregates_are_rejected() -> None:
    """A score counts only from a member that is not paused, for an aggregate of the model it names."""
    model, other = scored_model(2), scored_model(2)
    aggregate, foreign = new_aggregate(model), new_aggregate(other)
    Client.objects.create(pk=client_id(9))
    post(aggregate, 9, {"accuracy": 1.0})
    post(foreign, 1, {"accuracy": 1.0}, model=model.pk)
    Client.objects.filter(pk=client_id(2)).update(paused=True)
    post(aggregate, 2, {"accuracy": 1.0})
    assert not aggregate.client_scores.exists()
    assert not foreign.client_scores.exists()


@database
@pytest.mark.parametrize(
    "key",
    [
        "scores/0/{client}/1.json",
        "scores/{model}/{client}/{aggregate}.txt",
        "scores/{model}/{client}/x/{aggregate}.json",
        "scores/{model}/{client}/latest.json",
        "scores/{model}/nobody/{aggregate}.json",
        "scores/4711/{client}/{aggregate}.json",
        "scores/{model}/00000000-0000-4000-8000-000000000000/{aggregate}.json",
    ],
)
def test_a_key_of_another_form_is_ignored(key: str) -> None:
    """Nothing is registered for a key that does not name a model, client and aggregate."""
    aggregate = new_aggregate(scored_model())
    names = {"client": client_id(1), "model": aggregate.federated_model_id}
    post(aggregate, 1, {"accuracy": 1.0}, key=key.format(aggregate=aggregate.pk, **names))
    assert not aggregate.client_scores.exists()


@database
def test_without_versions_a_replaced_score_is_rejected() -> None:
    """The ETag of the notification must be that of the object."""
    aggregate = new_aggregate(scored_model())
    key = f"scores/{aggregate.federated_model_id}/{client_id(1)}/{aggregate.pk}.json"
    first = s3_record(key, put(key, b'{"accuracy": 0.1}'), 17)
    second = s3_record(key, put(key, b'{"accuracy": 0.2}'), 17)
    invoke({"Records": [first]})
    assert not aggregate.client_scores.exists()
    invoke({"Records": [second]})
    assert score_of(aggregate) == 0.2


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "schema",
    [
        [],
        {"type": "nonsense"},
        {"properties": 3},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$id": "http://127.0.0.1:9/", "properties": {"a": {"$ref": "other.json#/x"}}},
    ],
)
def test_an_invalid_schema_is_refused_when_the_model_is_saved(schema: Any) -> None:
    """References to other documents are refused as well: nothing is fetched."""
    with pytest.raises(ValidationError, match="client_agg_results_schema"):
        make_model(1, client_agg_results_schema=schema)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("fields", "scores", "reason"),
    [
        ({"max_score_drop": None}, (0.9, 0.1), ""),
        ({"max_score_drop": 0.1}, (0.5, 0.4375), ""),
        ({"max_score_drop": 0.1}, (0.9, 0.7), "worse by 0.2, and max_score_drop is 0.1"),
        ({"max_score_drop": 0.1}, (0.5, None), "has no validation score yet"),
        ({"max_score_drop": 0.1}, (None, 0.1), ""),
        ({"max_score_drop": 0.1, "lower_is_better": True}, (0.9, 0.1), ""),
        ({"max_score_drop": 0.1, "lower_is_better": True}, (0.25, 0.5), "worse by 0.25"),
    ],
)
def test_an_aggregate_that_scores_worse_than_its_parent_is_not_published(
    fields: Any, scores: tuple[float | None, float | None], reason: str
) -> None:
    """The reason says by how much; within the model's margin there is none."""
    model = scored_model(1, **fields)
    parent = new_aggregate(model, score=scores[0])
    refusal = score_refusal(new_aggregate(model, parent, score=scores[1]))
    assert reason in refusal
    assert bool(refusal) == bool(reason)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_score_or_are_rejected(body: bytes) -> None:
    """The parser raises nothing but a rejection."""
    with suppress(UpdateRejected):
        assert isinstance(parse_results(body), dict)


@database
def test_one_large_claim_does_not_decide_a_score() -> None:
    """Without a cap of the model, a score counts at most the median, in whatever order scores come."""
    for hostile_at in (0, 10, 20):
        aggregate = new_aggregate(scored_model(21))
        for client in range(21):
            is_hostile = client == hostile_at
            result = {
                "num_examples": 10**9 if is_hostile else 100 + client,
                "accuracy": 0.0 if is_hostile else 0.9,
            }
            post(aggregate, client + 1, result)
        assert score_of(aggregate) == pytest.approx(0.9, abs=0.05)


@database
def test_the_default_cap_is_final_after_many_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough scores the cap stays: a score is added without reading the others."""
    monkeypatch.setattr(models_app.scores, "SAMPLE", 3)
    aggregate = new_aggregate(scored_model(5))
    for client, count in enumerate((10, 20, 30), 1):
        post(aggregate, client, {"num_examples": count, "accuracy": 0.5})
    aggregate.client_scores.update(validation_results={"num_examples": 1, "accuracy": 100.0})
    post(aggregate, 4, {"num_examples": 10**9, "accuracy": 1.0})
    assert score_of(aggregate) == pytest.approx((0.5 * 50 + 1.0 * 20) / 70)


@database
def test_a_replaced_score_is_read_in_its_own_version() -> None:
    """The version that the event names is read, although the object was overwritten since."""
    aggregate = new_aggregate(scored_model())
    key = f"scores/{aggregate.federated_model_id}/{client_id(1)}/{aggregate.pk}.json"
    body = json.dumps({"num_examples": 10, "accuracy": 0.5}).encode()
    stored = default_storage.connection.meta.client.put_object(
        Bucket="federation", Key=key, Body=body
    )
    put(key, json.dumps({"num_examples": 10, "accuracy": 0.9}).encode())
    record = s3_record(key, stored["ETag"].strip('"'), len(body))
    record["s3"]["object"]["versionId"] = stored["VersionId"]
    assert invoke({"Records": [record]}) == {"rounds": []}
    assert score_of(aggregate) == 0.5
