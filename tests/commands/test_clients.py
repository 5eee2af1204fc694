"""`clients`, `add_clients`, `remove_client`, `pause_client`, `resume_client` and `rename_client`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError

from models_app.models import Client
from tests.factories import client_id, filled, make_model, ready_update, upload
from tests.test_lambda_handler import invoke

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]


def in_json(run_command: RunCommand, *arguments: Any) -> Any:
    return json.loads(run_command(*arguments, "--json"))


def test_members_are_added_and_removed(run_command: RunCommand) -> None:
    """`add_clients` takes new and existing clients; `remove_client` ends a membership, not the client."""
    model = make_model(1)
    known = Client.objects.create(name="ward 1")
    added = in_json(
        run_command,
        *("add_clients", model.name, "--clients", 1, "--client", "ward 1"),
        *("--client", "ward 2", "--client", client_id(1)),
    )
    assert [row["name"] for row in added] == ["", "ward 1", "ward 2", ""]
    assert model.clients.count() == 4
    answer = in_json(run_command, "remove_client", model.pk, "ward 1")
    assert answer == {"model": model.pk, "client": str(known.pk), "clients_left": 3}
    assert Client.objects.filter(pk=known.pk).exists()
    with pytest.raises(CommandError, match="client ward 1 is not a member of model"):
        run_command("remove_client", model.pk, "ward 1")


def test_many_clients_are_added_in_short_statements(run_command: RunCommand) -> None:
    """No statement has more than 1,000 parameters, however many clients there are."""
    from django.db import connection

    model = make_model(0)
    longest = 0

    def measure(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(params or ()))
        return execute(sql, params, many, context)

    names = [argument for n in range(600) for argument in ("--client", f"ward {n}")]
    with connection.execute_wrapper(measure):
        run_command("add_clients", model.pk, "--clients", 700, *names)
        run_command("add_clients", model.pk, *names)
    assert model.clients.count() == 1300
    assert longest <= 1000


def test_a_paused_client_is_rejected_until_it_is_resumed(run_command: RunCommand) -> None:
    """Its uploads are rejected, and no round waits for it."""
    model = make_model(2, requirement="all_clients")
    run_command("rename_client", client_id(2), "ward")
    assert "client ward is paused" in run_command("pause_client", "ward")
    assert "is paused, as it was before" in run_command("pause_client", "ward")
    invoke({"Records": [upload(model, 2, filled(1.0))]})
    assert "paused" in model.model_updates.get().rejection_reason
    ready_update(model, 1, filled(1.0))
    assert in_json(run_command, "run_round", model.pk)["status"] == "published"
    assert in_json(run_command, "resume_client", "ward")["paused"] is False
    invoke({"Records": [upload(model, 2, filled(1.0))]})
    assert model.model_updates.order_by("pk").last().rejection_reason == ""  # type: ignore[union-attr]


def test_clients_are_renamed(run_command: RunCommand) -> None:
    """A name is unique, may be removed, and stands for the client in every command."""
    first, second = Client.objects.create(), Client.objects.create()
    run_command("rename_client", first.pk, "ward")
    with pytest.raises(CommandError, match="Another client has this name"):
        run_command("rename_client", second.pk, "ward")
    run_command("rename_client", "ward", "station")
    first.refresh_from_db()
    assert (first.name, str(first), str(second)) == ("station", "station", str(second.pk))
    run_command("rename_client", "station", "")
    run_command("rename_client", second.pk, "")
    assert set(Client.objects.values_list("name", flat=True)) == {""}


def test_clients_are_listed(run_command: RunCommand) -> None:
    """`clients` shows names, and the latest update of each client; of one model or of all."""
    model, other = make_model(2), make_model(3)
    run_command("rename_client", client_id(2), "ward")
    ready_update(other, 2, filled(1.0))
    rows = in_json(run_command, "clients", model.pk)
    assert [(row["client"], row["name"], row["status"]) for row in rows] == [
        (str(client_id(1)), "", ""),
        (str(client_id(2)), "ward", ""),
    ]
    rows = in_json(run_command, "clients")
    assert [(row["name"], row["status"]) for row in rows] == [
        ("", ""),
        ("", ""),
        ("ward", "pending"),
    ]
    assert len(in_json(run_command, "clients", "--limit", 1)) == 1
