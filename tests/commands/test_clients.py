"""`add_clients`, `remove_client`, `pause_client`, `resume_client` and `rename_client`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from models_app.models import (
    Client,
    ModelAggregate,
)
from tests.factories import (
    make_model,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_clients_come_and_go(run_command: RunCommand) -> None:
    """`add_clients` makes members, new or known; `remove_client` ends a membership, not the client."""
    model = make_model(1)
    known = Client.objects.create()
    added = json.loads(
        run_command("add_clients", model.pk, "--clients", 1, "--client", known.pk, "--json")
    )
    assert len(added) == 2
    assert model.clients.count() == 3
    assert "2 clients left" in run_command("remove_client", model.pk, known.pk)
    assert set(Client.objects.filter(pk=known.pk)) == {known}
    assert not model.clients.filter(pk=known.pk).exists()
