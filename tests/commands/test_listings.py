"""`models`, `clients`, `rounds`, `updates`, `show_round` and `lineage`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models_app.models import (
    ModelAggregate,
    ModelUpdate,
)
from tests.factories import (
    client_id,
    filled,
    make_model,
    ready_update,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def in_json(run_command: RunCommand, *arguments: Any) -> Any:
    return json.loads(run_command(*arguments, "--json"))


def test_models_are_listed_with_their_state(run_command: RunCommand, lineage: Lineage) -> None:
    """`models` shows clients, ready updates, aggregates, the last round, and why a model is paused."""
    model = lineage[0].federated_model
    ready_update(model, 1, filled(4.0), base_aggregate=lineage[-1])
    run_command("pause", model.pk, "--reason", "review")
    (row,) = in_json(run_command, "models")
    assert (row["id"], row["members"], row["ready"], row["aggregates"]) == (model.pk, 1, 1, 3)
    assert (row["state"], row["last_round"]["used"]) == ("paused", 1)
    assert row["last_round"]["state"] == "published"
    assert row["alerts"] == [{"kind": "paused", "text": "Paused: review"}]
    assert "1 of 1" in (text := run_command("models"))
    assert "Paused: review" in text


def test_empty_lists_are_not_errors(run_command: RunCommand) -> None:
    """An empty list is not an error: the text says so, and the JSON is empty."""
    assert "create_model creates one" in run_command("models")
    assert in_json(run_command, "models") == []
    model = make_model(1)
    assert "no round yet" in run_command("rounds", model.pk)
    assert "no invalid update" in run_command("updates", model.pk, "--status", "invalid")
    assert "no aggregate yet" in run_command("lineage", model.pk)


def test_rejected_updates_are_listed_with_their_reasons(run_command: RunCommand) -> None:
    """`updates --status invalid` shows the reason without control characters."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    status = ModelUpdate.Status.INVALID
    ready_update(model, 1, filled(2.0), status=status, rejection_reason="bad \x1b[2J tensor")
    (row,) = in_json(run_command, "updates", model.pk, "--status", "invalid")
    assert row["reason"] == "bad \x1b[2J tensor"
    out = run_command("updates", model.pk, "--status", "invalid")
    assert "bad  [2J tensor" in out
    assert str(client_id(1)) in out
    assert len(in_json(run_command, "updates", model.pk)) == 2


def test_a_round_is_shown_with_its_settings_and_updates(
    run_command: RunCommand, lineage: Lineage
) -> None:
    """`rounds` lists the latest first; `show_round` shows one in full."""
    model = lineage[0].federated_model
    rows = in_json(run_command, "rounds", model.pk, "--limit", 2)
    assert [(row["round"], row["state"], row["used"]) for row in rows] == [
        (3, "published", 1),
        (2, "published", 1),
    ]
    shown = in_json(run_command, "show_round", rows[0]["id"])
    assert shown["config_snapshot"]["rule"] == "weighted_mean"
    assert [each["status"] for each in shown["updates"]] == ["complete"]
    assert str(client_id(1)) in run_command("show_round", rows[0]["id"])


def test_the_lineage_is_a_tree(run_command: RunCommand, lineage: Lineage) -> None:
    """`lineage` draws the aggregates with their versions and rollbacks."""
    model = lineage[0].federated_model
    run_command("publish", lineage[1].pk, "--version", "1.0")
    run_command("rollback", lineage[0].pk)
    drawn = run_command("lineage", model.pk).splitlines()
    assert drawn[0] == f"{model.name} (model {model.pk})"
    assert drawn[2].startswith("├─ 2: ")
    assert drawn[2].endswith("version 1.0")
    assert drawn[4].startswith("└─ 4: ")
    assert f"rolled back to aggregate {lineage[0].pk}" in drawn[4]
    assert [row["number"] for row in in_json(run_command, "lineage", model.pk)] == [1, 2, 3, 4]


def test_an_update_rejected_at_intake_has_no_count(run_command: RunCommand) -> None:
    """An update rejected at intake has no count; a ready one has its own."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    ready_update(model, 1, filled(1.0), status=ModelUpdate.Status.INVALID)
    listed = in_json(run_command, "updates", model.pk)
    assert [(row["status"], row["examples"]) for row in listed] == [
        ("invalid", None),
        ("pending", 1),
    ]


def test_updates_are_listed_with_their_direction(run_command: RunCommand) -> None:
    """`updates` and `show_round` show the cosine of each update's difference and the aggregate's."""
    model = make_model(5, initial=filled(0.0), aggregator="multi_krum", aggregator_args={"f": 1})
    for client, value in enumerate([1.0, 1.1, 1.2, 1.3, -9.0], 1):
        ready_update(model, client, filled(value))
    run_command("run_round", model.pk)
    rows = in_json(run_command, "updates", model.pk)
    assert [row["cosine"] for row in rows] == [-1.0, 1.0, 1.0, 1.0, 1.0]
    shown = in_json(run_command, "show_round", model.rounds.get().pk)
    assert {row["cosine"] for row in shown["updates"]} == {-1.0, 1.0}
