"""The default cap of the number of examples of an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.round import run_round
from connectors import application
from connectors.usecases.verify import verify
from models_app.models import ModelAggregate
from tests.factories import filled, get, make_model, ready_update

pytestmark = pytest.mark.usefixtures("database", "cloud")


def aggregate(
    values: Sequence[float], counts: Sequence[int], **fields: Any
) -> tuple[float, ModelAggregate]:
    """Run a round in which client k sends ``values[k]`` everywhere; return the value of the result."""
    model = make_model(len(values), initial=filled(0.0), **fields)
    for client, (value, count) in enumerate(zip(values, counts, strict=True), 1):
        ready_update(model, client, filled(value), num_examples=count)
    answer = run_round(application.round_connector(), model.pk)
    assert answer.aggregate_id is not None
    made = ModelAggregate.objects.get(pk=answer.aggregate_id)
    tensors = safetensors.numpy.load(get(str(made.result.name)))
    (value,) = {float(each) for tensor in tensors.values() for each in np.ravel(tensor)}
    return value, made


@pytest.mark.parametrize(
    ("rule", "arguments"), [("norm_clipped_mean", {"max_norm": 3.0}), ("norm_filtered_mean", {})]
)
def test_two_large_claims_do_not_take_over_a_robust_rule(
    rule: str, arguments: dict[str, Any]
) -> None:
    """Two of nine clients claim 10^9 examples for the opposite step; the result follows the others."""
    value, made = aggregate(
        [1.0] * 7 + [-1.0] * 2,
        [80, 90, 100, 110, 120, 100, 100, 10**9, 10**9],
        aggregator=rule,
        aggregator_args=arguments,
    )
    assert value > 0.5
    assert made.round.config_snapshot["max_num_examples"] == 100
    verify(application.weights(), made, application.round_resources())


def test_a_mean_counts_at_most_ten_times_the_median() -> None:
    """Example counts are capped at ten times their median."""
    value, _ = aggregate([0.0, 1.0, 1.0], [10, 30, 60])
    assert value == pytest.approx(0.9)
    value, made = aggregate([0.0, 0.0, 1.0], [10, 10, 10**9])
    assert made.round.config_snapshot["max_num_examples"] == 100
    assert value == pytest.approx(100 / 120)


def test_a_cap_of_the_model_replaces_the_default() -> None:
    """`max_num_examples` of the model replaces the default cap, even if it is larger."""
    value, made = aggregate([0.0, 0.0, 1.0], [10, 10, 980], max_num_examples=10_000)
    assert made.round.config_snapshot["max_num_examples"] == 10_000
    assert value == pytest.approx(0.98)
