"""The migrating function runs operators' commands: docs/deploy.md, "The first round"."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from models_app.models import FederatedModel
from tests.deploy.stack import ROOT
from tests.factories import make_model
from tests.test_lambda_handler import Context


def operate(event: Any) -> Any:
    """What the migrating function answers."""
    from lambda_handler import migrate

    return migrate(event, Context())  # type: ignore[arg-type]


def documented_command(name: str) -> Any:
    """The payload of a command in docs/deploy.md."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    payloads = re.findall(r"operate '(\{.*?\})'", text, re.DOTALL)
    return next(each for each in map(json.loads, payloads) if each["command"] == name)


@pytest.mark.usefixtures("database")
def test_the_documented_command_creates_a_model() -> None:
    """The command that the documentation shows makes a model with its one client."""
    answer = operate(documented_command("create_model"))
    model = FederatedModel.objects.get()
    assert answer["output"].startswith(f"model {model.pk} is created, with 1 clients\n")
    assert (model.name, model.requirement, model.clients.count()) == ("digits", "all_clients", 1)


@pytest.mark.usefixtures("database")
def test_a_paused_model_is_resumed() -> None:
    """An operator ends a pause from outside the network."""
    model = make_model(1, allow_aggregation=False)
    operate({"command": "resume", "arguments": [str(model.pk)]})
    model.refresh_from_db()
    assert model.allow_aggregation


@pytest.mark.usefixtures("database")
def test_a_rule_that_is_not_known_is_refused() -> None:
    """A wrong argument is told, and nothing is created."""
    with pytest.raises(Exception, match="no_such_rule"):
        operate({"command": "create_model", "arguments": ["a", "--rule", "no_such_rule"]})
    assert not FederatedModel.objects.exists()


@pytest.mark.parametrize("name", ["shell", "flush", "dbshell", "nonsense"])
def test_djangos_own_commands_are_not_run(name: str) -> None:
    """Only the project's commands can be run from outside."""
    with pytest.raises(ValueError, match="no command"):
        operate({"command": name})
