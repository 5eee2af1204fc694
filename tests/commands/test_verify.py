"""`verify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError

from models_app.models import (
    AggregationRound,
    ModelAggregate,
)
from tests.factories import (
    get,
    put,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_aggregates_are_verified(run_command: RunCommand, lineage: Lineage) -> None:
    """Every aggregate follows from its updates, and that of a rollback from the one it repeats."""
    for aggregate in lineage:
        assert "1 updates by weighted_mean" in run_command("verify", aggregate.pk)
    run_command("rollback", lineage[0].pk)
    new = lineage[0].federated_model.aggregates.get(number=4)
    assert f"those of aggregate {lineage[0].pk}" in run_command("verify", new.pk)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1] + b"\x01", lambda b: b + b"\0", lambda b: b[:-1]]
)
def test_a_changed_aggregate_is_detected(
    run_command: RunCommand, lineage: Lineage, change: Any
) -> None:
    """A byte that is changed, added or missing in storage is noticed."""
    key = str(lineage[1].result.name)
    put(key, change(get(key)))
    with pytest.raises(CommandError, match=r"stored|in storage"):
        run_command("verify", lineage[1].pk)


def test_a_replaced_update_is_named(run_command: RunCommand, lineage: Lineage) -> None:
    """If the bytes differ, the message names the updates whose objects were replaced."""
    update = lineage[1].updates_applied.get()
    update.etag = "as it was"
    update.save()
    put(str(update.data.name), get(str(lineage[0].result.name)))
    with pytest.raises(CommandError, match=rf"objects of updates \[{update.pk}\]"):
        run_command("verify", lineage[1].pk)


def test_an_unverifiable_aggregate_is_reported(run_command: RunCommand, lineage: Lineage) -> None:
    """Updates that are gone, and aggregates that workflows computed, are not verifiable."""
    update = lineage[1].updates_applied.get()
    update.data = "updates/gone.safetensors"
    update.save()
    with pytest.raises(CommandError, match=f"not in storage any more: update {update.pk}"):
        run_command("verify", lineage[1].pk)
    AggregationRound.objects.filter(aggregate=lineage[2]).update(external=True)
    with pytest.raises(CommandError, match="step by step"):
        run_command("verify", lineage[2].pk)
