"""`run_round` and `sweep`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest
from django.core.management import CommandError

from connectors.management.commands.run_round import _stop_on_interrupt
from connectors.storage.keys import pointer_key
from models_app.models import (
    ModelAggregate,
)
from tests.factories import (
    filled,
    get,
    make_model,
    put,
    ready_update,
    statuses,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_a_round_is_run_in_this_process(run_command: RunCommand) -> None:
    """`run_round` publishes an aggregate and updates `latest.json`."""
    model = make_model(1)
    update = ready_update(model, 1, filled(1.0))
    answer = json.loads(run_command("run_round", model.pk, "--json"))
    assert (answer["status"], answer["updates_used"]) == ("published", 1)
    assert statuses([update]) == ["COMPLETE"]
    assert json.loads(get(pointer_key(model.pk)))["aggregate_id"] == answer["aggregate_id"]
    assert "waiting: no update is ready" in run_command("run_round", model.pk)


def test_a_round_that_cannot_be_run_says_why(run_command: RunCommand) -> None:
    """An unknown model is named; a round that fails says what became of its updates."""
    with pytest.raises(CommandError, match="the id or name '999'"):
        run_command("run_round", 999)
    model = make_model(1, initial=filled(0.0))
    assert model.current_artifact
    put(str(model.current_artifact.values.name), b"garbage")
    update = ready_update(model, 1, filled(1.0))
    with pytest.raises(CommandError, match="its updates are ready again"):
        run_command("run_round", model.pk)
    assert statuses([update]) == ["FAILED"]


def test_a_sweep_continues_after_a_failed_round(run_command: RunCommand) -> None:
    """One model's failure is reported, does not stop the others, and makes the command fail."""
    broken, well = (make_model(1, initial=filled(0.0)) for _ in range(2))
    assert broken.current_artifact
    put(str(broken.current_artifact.values.name), b"garbage")
    for model in (broken, well):
        ready_update(model, 1, filled(1.0))
    with pytest.raises(CommandError, match="2 steps failed or were interrupted"):
        run_command("sweep")
    assert (broken.aggregates.count(), well.aggregates.count()) == (0, 1)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_sweep_says_when_nothing_is_due(
    run_command: RunCommand, lineage: Lineage, options: list[str]
) -> None:
    """The sweep prints what is due, or that nothing is."""
    model = lineage[0].federated_model
    ready_update(model, 1, filled(4.0), base_aggregate=lineage[2])
    assert "nothing is due" not in run_command("sweep", *options)
    run_command("sweep")
    assert run_command("sweep", *options) == "nothing is due\n"


def test_an_interrupt_stops_a_round_between_chunks() -> None:
    """Ctrl-C stops a running round, and ends the process again afterwards."""
    with _stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
