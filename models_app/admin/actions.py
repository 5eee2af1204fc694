"""The actions of the console. Each runs the management command of its name.

Commands are called by name, because they belong to `connectors`, which this app does not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from django.contrib import messages
from django.core.management import CommandError, call_command

from models_app.models import Client, FederatedModel

#: What a user submitted: the fields of an action by name.
Form = Mapping[str, str]

#: How a round's answer begins if it made no aggregate.
NOT_PUBLISHED = ("waiting", "busy", "paused", "rejected")


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of an action's page; the names of some have a list of choices."""

    name: str
    label: str
    help: str = ""
    is_required: bool = True
    default: str = ""


@dataclass(frozen=True, kw_only=True)
class Action:
    """An action of the console on a federated model or a client.

    Parameters
    ----------
    arguments : callable
        Returns the command's arguments for the row and the submitted form; raises `CommandError`.
    title : str
        What the page asks, of which ``{}`` is the row; empty if no confirmation is needed.
    label : str
        The button with which the user confirms.
    consequences : callable
        Returns what will happen, a sentence each.
    choices : tuple of Field
        What the user chooses before the consequences are known.
    details : tuple of Field
        What the user says when confirming.
    is_dangerous : bool
        Whether the button warns.
    shows_output : bool
        Whether the command prints a secret, which is shown once and stored nowhere.
    """

    arguments: Callable[..., list[str]]
    title: str = ""
    label: str = ""
    consequences: Callable[..., list[str]] = lambda row, form: []
    choices: tuple[Field, ...] = ()
    details: tuple[Field, ...] = ()
    is_dangerous: bool = False
    shows_output: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command said: the level of the message, and its text."""

    level: int
    text: str = field(repr=False)

    @property
    def is_error(self) -> bool:
        """Return whether the command refused."""
        return self.level == messages.ERROR


def run(name: str, action: Action, row: FederatedModel | Client, form: Form) -> Outcome:
    """Run the command of an action."""
    output = StringIO()
    try:
        call_command(name, *action.arguments(row, form), stdout=output, stderr=StringIO())
    except CommandError as error:
        return Outcome(level=messages.ERROR, text=str(error))
    text = output.getvalue().strip()
    waits = text.lower().startswith(NOT_PUBLISHED)
    return Outcome(level=messages.WARNING if waits else messages.SUCCESS, text=text)
