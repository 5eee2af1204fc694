"""The constraints of the database, and the validation of a model."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Model, ProtectedError
from django.utils import timezone

from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from models_app.models import (
    AggregationRound,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
)
from tests.factories import client_id, make_model

pytestmark = pytest.mark.usefixtures("database")

State = AggregationRound.State


def aggregate(model: FederatedModel, number: int = 1, **fields: Any) -> ModelAggregate:
    return ModelAggregate.objects.create(
        federated_model=model, number=number, result=f"aggregates/{uuid.uuid4()}.npz", **fields
    )


def update(model: FederatedModel, **fields: Any) -> ModelUpdate:
    given = {"client_id": client_id(1), "data": f"updates/{uuid.uuid4()}.npz", **fields}
    return ModelUpdate.objects.create(federated_model=model, **given)


def a_round(model: FederatedModel, **fields: Any) -> AggregationRound:
    now = timezone.now()
    return AggregationRound.objects.create(
        federated_model=model, **{"number": 1, "lease_expires_at": now, "started_on": now, **fields}
    )


def refused(create: Any) -> None:
    """Check that the database refuses a statement."""
    with pytest.raises(IntegrityError), transaction.atomic():
        create()


# Constraints


def test_a_model_has_at_most_one_running_round() -> None:
    """A model has one running round, and any number of finished ones."""
    model = make_model(1)
    for state in (State.PUBLISHED, State.FAILED, State.REJECTED, State.FAILED):
        a_round(model, state=state)
    running = a_round(model)
    refused(lambda: a_round(model))
    refused(lambda: model.rounds.filter(state=State.REJECTED).update(state=State.RUNNING))
    a_round(make_model(1))
    AggregationRound.objects.filter(pk=running.pk).update(state=State.PUBLISHED)
    a_round(model)


def test_aggregates_form_a_line() -> None:
    """A model has one aggregate of each number, and each aggregate has one successor."""
    model = make_model(1)
    first = aggregate(model)
    second = aggregate(model, 2, parent=first)
    refused(lambda: aggregate(model, 2, parent=second))
    refused(lambda: aggregate(model, 3, parent=first))
    aggregate(make_model(1))


def test_an_upload_is_registered_once() -> None:
    """One version of an object is one update, and another version is another update."""
    model = make_model(1)
    update(model, data="updates/1.npz", storage_version="a")
    refused(lambda: update(model, data="updates/1.npz", storage_version="a"))
    update(model, data="updates/1.npz", storage_version="b")
    update(model, data="updates/2.npz", storage_version="a")


def test_a_version_is_one_artifact() -> None:
    """A version name is unique in a model, and two models may use the same name."""
    model, other = make_model(1), make_model(1)
    ModelArtifact.objects.create(federated_model=model, version="1.0", values="a.npz")
    refused(
        lambda: ModelArtifact.objects.create(federated_model=model, version="1.0", values="b.npz")
    )
    ModelArtifact.objects.create(federated_model=other, version="1.0", values="a.npz")


def test_a_client_scores_an_aggregate_once() -> None:
    """A client has at most one score for an aggregate."""
    found = aggregate(make_model(1))
    score = {"aggregate": found, "client_id": client_id(1), "validation_results": {}}
    ClientAggregateScore.objects.create(**score)
    refused(lambda: ClientAggregateScore.objects.create(**score))


def test_an_aggregate_belongs_to_one_round() -> None:
    """Two rounds cannot refer to the same aggregate."""
    model = make_model(1)
    made = aggregate(model)
    a_round(model, aggregate=made, state=State.PUBLISHED)
    refused(lambda: a_round(model, aggregate=made, state=State.PUBLISHED))


@pytest.mark.parametrize("count", [0, -1])
def test_an_update_counts_at_least_one_example(count: int) -> None:
    """The database refuses a count below one, on insert and on update."""
    model = make_model(1)
    refused(lambda: update(model, num_examples=count))
    found = update(model)
    refused(lambda: ModelUpdate.objects.filter(pk=found.pk).update(num_examples=count))


@pytest.mark.parametrize("field", ["furthest_base_agg", "max_num_examples"])
@pytest.mark.parametrize("count", [0, -1])
def test_limits_are_at_least_one(field: str, count: int) -> None:
    """A limit of zero, which would stop the model, is refused."""
    refused(lambda: make_model(1, **{field: count}))
    model = make_model(1, **{field: 1})
    refused(lambda: FederatedModel.objects.filter(pk=model.pk).update(**{field: count}))


# Deletion


def history() -> dict[str, Model]:
    """Create one row of each kind, each referring to others."""
    model = make_model(1)
    model.developer = get_user_model().objects.create(username=f"developer {model.pk}")
    first = aggregate(model)
    made_by = a_round(model, aggregate=first, state=State.PUBLISHED)
    model.current_artifact = ModelArtifact.objects.create(
        federated_model=model, version="1", values="a.npz"
    )
    model.save()
    update(model, base_aggregate=first, applied_aggregate=first, round=made_by)
    ClientAggregateScore.objects.create(
        aggregate=first, client_id=client_id(1), validation_results={}
    )
    aggregate(model, 2, parent=first)
    return {
        "model": model,
        "developer": model.developer,
        "client": Client.objects.get(pk=client_id(1)),
        "aggregate": first,
        "round": made_by,
        "artifact": model.current_artifact,
    }


@pytest.mark.parametrize("name", ["model", "developer", "client", "aggregate", "round", "artifact"])
def test_deleting_does_not_cascade_into_the_lineage(name: str) -> None:
    """A row that others in the lineage refer to cannot be deleted."""
    found = history()[name]
    with pytest.raises(ProtectedError):
        found.delete()
    assert ModelAggregate.objects.count() == 2
    assert ModelUpdate.objects.count() == AggregationRound.objects.count() == 1


def test_a_client_without_a_history_can_be_deleted() -> None:
    """A membership alone does not protect a client."""
    model = make_model(2)
    Client.objects.get(pk=client_id(2)).delete()
    assert list(model.clients.all()) == [Client.objects.get(pk=client_id(1))]


# Validation


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"aggregator": "nope"}, "aggregator", "unknown aggregation rule 'nope'; known are "),
        ({"aggregator": ""}, "aggregator", "unknown aggregation rule ''"),
        (
            {"aggregator": "weighted_mean", "aggregator_args": {"f": 1}},
            "aggregator",
            "no arguments",
        ),
        ({"aggregator": "krum"}, "aggregator", "krum takes the arguments f"),
        ({"aggregator": "krum", "aggregator_args": {"f": -1}}, "aggregator", "f must be"),
        ({"aggregator": "krum", "aggregator_args": [1]}, "aggregator", "by name"),
        ({"aggregator": "trimmed_mean", "aggregator_args": {"beta": 0.5}}, "aggregator", "beta"),
        ({"pre_aggregation": ["nope(f=1)"]}, "pre_aggregation", "unknown step before the rule"),
        ({"pre_aggregation": "nnm(f=1)"}, "pre_aggregation", "expected a list of steps"),
        (
            {"pre_aggregation": ["nnm(f=1)"]},
            "aggregator",
            "weighted_mean withstands no hostile update",
        ),
        ({"tensor_policies": [["w", "best"]]}, "tensor_policies", "unknown tensor policy 'best'"),
        ({"tensor_policies": {"w": "keep"}}, "tensor_policies", "must be a list of [glob, policy]"),
        ({"freeze": {"always": ["w"]}}, "freeze", "must be of the form"),
        ({"freeze": {"odd": ["a"], "even": ["b"]}}, "freeze", "need furthest_base_agg=1"),
        (
            {
                "freeze": {"odd": ["a"], "even": ["a"]},
                "staleness": "polynomial",
                "furthest_base_agg": 3,
            },
            "freeze",
            "cannot be combined with staleness",
        ),
        ({"requirement": "nope"}, "requirement", "unknown requirement 'nope'; known are "),
        ({"requirement": "require_x_updates"}, "requirement", "takes the arguments x"),
        (
            {"requirement": "require_x_updates", "requirement_args": [0]},
            "requirement",
            "at least 1",
        ),
        ({"requirement_args": [3]}, "requirement", "without a requirement"),
        (
            {"client_agg_results_schema": {"type": "nope"}},
            "client_agg_results_schema",
            "not a JSON schema",
        ),
    ],
)
def test_settings_that_no_round_can_run_with_are_not_saved(
    fields: dict[str, Any], field: str, message: str
) -> None:
    """The error names the invalid field and the expected value."""
    with pytest.raises(ValidationError) as problem:
        FederatedModel.objects.create(name="model", **fields)
    assert message in str(problem.value.message_dict[field])
    model = make_model(1)
    for name, value in fields.items():
        setattr(model, name, value)
    with pytest.raises(ValidationError):
        model.save()
    model.refresh_from_db()
    assert (model.aggregator, model.requirement) == ("weighted_mean", "")


@pytest.mark.parametrize(
    "fields",
    [{"tensor_policies": [["head.*", "exclude"]]}, {"freeze": {"odd": ["a"], "even": ["a"]}}],
)
def test_tensors_of_the_parent_need_initial_weights(fields: dict[str, Any]) -> None:
    """A saved model without weights cannot exclude or freeze tensors; one with weights can."""
    model = make_model(1)
    for name, value in fields.items():
        setattr(model, name, value)
    with pytest.raises(ValidationError, match="the model needs initial weights"):
        model.save()
    model.current_artifact = ModelArtifact.objects.create(
        federated_model=model, values="initial.safetensors", version="1"
    )
    model.save()


def test_all_invalid_fields_are_reported_at_once() -> None:
    """Each field has its own message."""
    with pytest.raises(ValidationError) as problem:
        FederatedModel(aggregator="nope", requirement="nope").clean()
    assert problem.value.message_dict.keys() == {"aggregator", "requirement"}


@pytest.mark.parametrize("name", ["average_layers", "avg_values_if_data"])
def test_the_rules_of_the_original_are_known(name: str) -> None:
    """The names of the rules of the original system are valid."""
    assert make_model(1, aggregator=name).rule().name == "unweighted_mean"


def test_every_known_name_fits_its_column() -> None:
    """Every name of a rule or requirement fits the length of its column."""
    limit = FederatedModel._meta.get_field("aggregator").max_length or 0
    assert all(len(name) <= limit for name in (*known_rules(), *known_requirements()))


@pytest.mark.parametrize(
    ("aggregator", "arguments"),
    [("weighted_mean", {}), ("krum", {"f": 1}), ("trimmed_mean", {"beta": 0.1})],
)
def test_a_model_is_read_with_its_rule(aggregator: str, arguments: dict[str, Any]) -> None:
    """A saved model has the rule and arguments that were saved."""
    model = make_model(1, aggregator=aggregator, aggregator_args=arguments)
    found = FederatedModel.objects.get(pk=model.pk)
    assert found.rule() == model.rule()
    assert found.rule().name == aggregator


@pytest.mark.parametrize("arguments", [[2, 5], {"x": 2, "after_minutes": 5}])
def test_a_model_is_read_with_its_requirement(arguments: Any) -> None:
    """Arguments of a requirement are kept by position or by name."""
    model = make_model(1, requirement="quorum", requirement_args=arguments)
    found = FederatedModel.objects.get(pk=model.pk)
    assert found.requirement_args == arguments
    assert found.requirement_object() == model.requirement_object()


# Representation


def test_rows_have_descriptive_names() -> None:
    """The text of a row identifies it in the console, in messages and in errors."""
    shown = {name: str(found) for name, found in history().items()}
    name = shown["model"]
    assert shown["client"] == str(client_id(1))
    assert shown["aggregate"] == f"aggregate 1 of {name}"
    assert shown["round"] == f"round 1 of {name}, attempt 1"
    assert shown["artifact"] == f"{name} 1"
    assert str(ModelUpdate.objects.get()).startswith("update ")


def test_the_statuses_have_the_values_of_the_original() -> None:
    """The statuses have the numbers of the original database."""
    assert [(status.name, status.value) for status in ModelUpdate.Status] == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("COMPLETE", 2),
        ("FAILED", 3),
        ("INVALID", 4),
    ]
