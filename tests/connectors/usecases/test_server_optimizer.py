"""Server optimizers from the upload to the audit: the state is published and kept with its aggregate."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.exceptions import ValidationError
from django.utils import timezone

from connectors import application
from connectors.storage.garbage import collect_garbage
from connectors.storage.weights import default_objects
from connectors.usecases.comparison import AuditMismatch
from connectors.usecases.rollback import roll_back
from connectors.usecases.verify import NotVerifiable, verify
from models_app.models import FederatedModel, ModelAggregate
from tests.aggregation.optimizers.oracles import trajectory
from tests.factories import filled, get, make_model, put, upload
from tests.test_lambda_handler import invoke

pytestmark = pytest.mark.usefixtures("database", "cloud")

ADAM: dict[str, Any] = {"server_optimizer": "fedadam", "server_optimizer_args": {"eta": 0.5}}


def run_rounds(model: FederatedModel, *results: float) -> list[ModelAggregate]:
    """Do a round for each result, which is what the only client sends, and return all aggregates."""
    for value in results:
        latest = model.aggregates.order_by("number").last()
        invoke({"Records": [upload(model, 1, filled(value), base=latest)]})
    return list(model.aggregates.order_by("number"))


def values_of(aggregate: ModelAggregate) -> float:
    """Return the value that all elements of an aggregate have."""
    tensors = safetensors.numpy.load(get(aggregate.result.name))
    values = np.unique(np.concatenate([each.ravel() for each in tensors.values()]))
    assert len(values) == 1
    return float(values[0])


def test_rounds_continue_with_the_published_state() -> None:
    """Three rounds of the function give the paper's trajectory; each aggregate has a state of its own."""
    aggregates = run_rounds(make_model(1, initial=filled(0.0), **ADAM), 1.0, 2.0, -1.0)
    expected = trajectory(
        "fedadam", np.zeros(1), [np.full(1, value) for value in (1.0, 2.0, -1.0)], {"eta": 0.5}
    )
    made = [values_of(each) for each in aggregates]
    np.testing.assert_allclose(made, np.concatenate(expected), rtol=1e-5)
    assert {each.server_optimizer for each in aggregates} == {"fedadam"}
    assert len({each.optimizer_state.name for each in aggregates}) == 3
    state = safetensors.numpy.load(get(aggregates[-1].optimizer_state.name))
    assert {name: each.shape for name, each in state.items()} == {"w": (2, 3, 2), "b": (3, 2)}
    assert {each.dtype for each in state.values()} == {np.dtype(np.float64)}
    for each in aggregates:
        assert "updates by weighted_mean and fedadam" in verify(application.weights(), each)


def test_a_model_without_an_optimizer_has_no_state() -> None:
    """By default the aggregate is the rule's result, and nothing is stored beside it."""
    (aggregate,) = run_rounds(make_model(1, initial=filled(0.0)), 1.0)
    assert (aggregate.server_optimizer, aggregate.optimizer_state.name) == ("", "")
    assert values_of(aggregate) == 1.0


def test_a_rollback_restores_the_state_of_the_aggregate() -> None:
    """The round after a rollback gives the bytes of the round that followed the aggregate at first."""
    model = make_model(1, initial=filled(0.0), **ADAM)
    first, second, _ = run_rounds(model, 1.0, 2.0, -1.0)
    restored = roll_back(default_objects(), first)
    assert restored.optimizer_state.name != first.optimizer_state.name
    assert get(restored.optimizer_state.name) == get(first.optimizer_state.name)
    again = run_rounds(model, 2.0)[-1]
    for field in ("result", "optimizer_state"):
        assert get(getattr(again, field).name) == get(getattr(second, field).name)
    verify(application.weights(), restored)
    verify(application.weights(), again)


@pytest.mark.parametrize("what", ["changed", "missing", "unnamed"])
def test_a_changed_state_is_detected(what: str) -> None:
    """An audit recomputes the state as well, and says if its bytes or the object are not there."""
    model = make_model(1, initial=filled(0.0), **ADAM)
    *_, aggregate = run_rounds(model, 1.0, 2.0)
    key = aggregate.optimizer_state.name
    expected: type[Exception] = AuditMismatch
    if what == "changed":
        body = bytearray(get(key))
        body[-1] ^= 1
        put(key, bytes(body))
    elif what == "missing":
        aggregate.optimizer_state.delete(save=False)
        aggregate.optimizer_state.name = key
        expected = NotVerifiable
    else:
        aggregate.optimizer_state.name = ""
    with pytest.raises(expected):
        verify(application.weights(), aggregate)


def test_an_audit_needs_the_state_of_the_parent() -> None:
    """Without the state that the round started from, an aggregate cannot be recomputed."""
    first, second = run_rounds(make_model(1, initial=filled(0.0), **ADAM), 1.0, 2.0)
    first.optimizer_state.delete(save=False)
    with pytest.raises(NotVerifiable, match="the parent of the aggregate"):
        verify(application.weights(), second)


def test_published_states_are_not_collected_as_garbage() -> None:
    """The sweep keeps the states that aggregates name, and deletes one that no aggregate names."""
    model = make_model(1, initial=filled(0.0), **ADAM)
    aggregates = run_rounds(model, 1.0, 2.0)
    orphan = f"aggregates/{model.pk}/round-000003-x.optimizer.safetensors"
    put(orphan, b"left by an attempt that died")
    later = timezone.now() + timedelta(hours=2)
    collected = {each.key for each in collect_garbage(default_objects(), later)}
    assert orphan in collected
    kept = {field.name for each in aggregates for field in (each.result, each.optimizer_state)}
    assert not collected & kept


def test_another_optimizer_starts_and_is_audited() -> None:
    """After a change of the optimizer the next round starts it; aggregates of both are verified."""
    model = make_model(1, initial=filled(0.0), **ADAM)
    run_rounds(model, 1.0)
    model.server_optimizer, model.server_optimizer_args = "fedavgm", {}
    model.save()
    aggregates = run_rounds(model, 2.0, 3.0)
    assert [each.server_optimizer for each in aggregates] == ["fedadam", "fedavgm", "fedavgm"]
    snapshots = [each.round.config_snapshot["optimizer_state"] for each in aggregates]
    assert snapshots == [None, None, aggregates[1].optimizer_state.name]
    for each in aggregates:
        verify(application.weights(), each)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adam", {}, "unknown server optimizer 'adam'; known are none, fedadagrad"),
        (
            "fedadam",
            {"beta1": 1.0},
            "fedadam: beta1 must be a finite number, at least 0.0 and below",
        ),
        ("none", {"eta": 1.0}, "none takes no arguments"),
    ],
)
def test_a_wrong_optimizer_is_refused_when_the_model_is_saved(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    """An unknown optimizer or argument is refused on saving, with what is expected."""
    with pytest.raises(ValidationError) as caught:
        make_model(1, server_optimizer=name, server_optimizer_args=arguments)
    assert message in caught.value.message_dict["server_optimizer"][0]
