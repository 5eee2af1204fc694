"""Late updates and numbers of steps, from their upload to the audit of the aggregate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.exceptions import ValidationError

from connectors import application
from connectors.usecases.verify import verify
from models_app.models import FederatedModel, ModelAggregate
from tests.factories import client_id as client_uuid
from tests.factories import filled, get, make_model, put, s3_record, upload
from tests.test_lambda_handler import invoke

pytestmark = pytest.mark.usefixtures("database", "cloud")

STALENESS = {"staleness": "polynomial", "staleness_args": {"a": 1.0}, "furthest_base_agg": 4}


def send(model: FederatedModel, *records: Any) -> ModelAggregate:
    """Deliver uploads, and return the aggregate that their round published."""
    invoke({"Records": list(records)})
    return model.aggregates.latest("number")


def value(aggregate: ModelAggregate) -> float:
    """Return the value that all elements of an aggregate have."""
    tensors = safetensors.numpy.load(get(aggregate.result.name)).values()
    (only,) = {float(each) for tensor in tensors for each in np.ravel(tensor)}
    return only


def test_a_late_update_is_compared_with_its_own_base() -> None:
    """An update from the initial model, two rounds late, adds a third of its difference from it."""
    model = make_model(2, initial=filled(100.0), requirement="", **STALENESS)
    first = send(model, upload(model, 1, filled(110.0)))
    second = send(model, upload(model, 1, filled(130.0), base=first))
    assert [value(first), value(second)] == [110.0, 130.0]
    late = upload(model, 2, filled(106.0), num_examples=1)  # Trained from 100: a difference of 6.
    third = send(model, late)
    assert value(third) == 130.0 + 6.0 / 3
    from_first = upload(model, 2, filled(114.0), base=first)
    fresh = upload(model, 1, filled(140.0), base=third, num_examples=3)
    model.requirement = "all_clients"
    model.save()
    fourth = send(model, from_first, fresh)
    # Two rounds late, a difference of 4 of one example of four; and 8 of three examples of four.
    assert value(fourth) == pytest.approx(132.0 + (4 / 3 * 1 + 8.0 * 3) / 4, rel=1e-6)
    for aggregate in model.aggregates.all():
        assert "bytes follow from" in verify(application.weights(), aggregate)


def test_late_differences_are_discounted() -> None:
    """For a model of differences only the weight changes."""
    model = make_model(1, initial=filled(0.0), update_kind="differences", **STALENESS)
    first = send(model, upload(model, 1, filled(8.0)))
    second = send(model, upload(model, 1, filled(8.0)))
    assert [value(first), value(second)] == [8.0, 12.0]
    assert "bytes follow from" in verify(application.weights(), second)


def test_an_update_whose_base_is_unknown_is_rejected() -> None:
    """Without initial weights and without base-aggregate, there is nothing to compare it with."""
    model = make_model(1, **STALENESS)
    send(model, upload(model, 1, filled(1.0)))
    send(model, upload(model, 1, filled(2.0)))
    rejected = model.model_updates.latest("pk")
    assert "names no base-aggregate" in rejected.rejection_reason
    assert model.aggregates.count() == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"furthest_base_agg": None}, "without furthest_base_agg"),
        ({"aggregator": "krum", "aggregator_args": {"f": 1}}, "krum compares updates"),
        ({"staleness": "exponential"}, "known are polynomial"),
        ({"staleness_args": {"b": 1}}, "takes the arguments a"),
    ],
)
def test_what_cannot_be_discounted_is_refused_on_saving(
    fields: dict[str, Any], reason: str
) -> None:
    """A model is not saved with a discount that has no meaning for it."""
    with pytest.raises(ValidationError, match=reason):
        make_model(1, **(STALENESS | fields))


def upload_steps(model: FederatedModel, client: int, number: float, steps: str | None) -> Any:
    """Upload an update that states its number of steps."""
    key = f"updates/{model.pk}/{client_uuid(client)}/steps.safetensors"
    body = safetensors.numpy.save(filled(number))
    return s3_record(key, put(key, body, {} if steps is None else {"num-steps": steps}), len(body))


def test_normalized_mean_uses_the_stated_steps() -> None:
    """A client that took four times as many steps does not pull four times as hard."""
    model = make_model(
        2, initial=filled(0.0), requirement="all_clients", aggregator="normalized_mean"
    )
    published = send(model, upload_steps(model, 1, 1.0, "1"), upload_steps(model, 2, 4.0, "4"))
    assert value(published) == 2.5  # 2.5 effective steps in the mean direction of 1.
    assert "bytes follow from" in verify(application.weights(), published)


@pytest.mark.parametrize("steps", [None, "", "0", "many", "1.5"])
def test_missing_or_wrong_steps_are_rejected(steps: str | None) -> None:
    """The rule cannot do without them, and the reason names the metadata."""
    model = make_model(1, initial=filled(0.0), aggregator="normalized_mean")
    invoke({"Records": [upload_steps(model, 1, 1.0, steps)]})
    assert model.model_updates.get().rejection_reason.startswith("num-steps is")


def test_updates_without_steps_are_rejected_when_the_rule_needs_them_later() -> None:
    """Updates that were registered under another rule do not fail the round."""
    model = make_model(2, initial=filled(0.0), requirement="all_clients")
    invoke({"Records": [upload_steps(model, 1, 1.0, None)]})
    model.aggregator = "normalized_mean"
    model.requirement = ""
    model.save()
    send(model, upload_steps(model, 2, 3.0, "2"))
    assert value(model.aggregates.get()) == 3.0
    rejected = model.model_updates.get(client_id=client_uuid(1))
    assert "normalized_mean needs it" in rejected.rejection_reason
