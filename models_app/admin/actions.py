"""The actions of the control room. Each runs the management command of its name.

Commands are called by name, because they belong to `connectors`, which this app does not import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO

from django.contrib import messages
from django.core.management import CommandError, call_command
from django.http import QueryDict

from models_app.models import FederatedModel, ModelAggregate, ModelUpdate

#: How a round's answer begins if it made no aggregate.
NOT_PUBLISHED = ("waiting", "busy", "paused", "rejected")


@dataclass(frozen=True, kw_only=True)
class Action:
    """A button of the control room.

    Parameters
    ----------
    arguments : callable
        Returns the command's arguments for a model and the submitted form; raises `CommandError`.
    label : str
        The button with which the user confirms; empty if no confirmation is needed.
    consequences : callable
        Returns what the user is to confirm, a sentence each.
    """

    arguments: Callable[[FederatedModel, QueryDict], list[str]]
    label: str = ""
    consequences: Callable[[FederatedModel, QueryDict], list[str]] = lambda model, form: []


def run(name: str, model: FederatedModel, form: QueryDict) -> tuple[int, str]:
    """Run an action, and return the level and text of the message for the user."""
    output = StringIO()
    try:
        arguments = ACTIONS[name].arguments(model, form)
        call_command(name, *arguments, stdout=output, stderr=StringIO())
    except CommandError as error:
        return messages.ERROR, str(error)
    text = output.getvalue().strip()
    return messages.WARNING if text.startswith(NOT_PUBLISHED) else messages.SUCCESS, text


def _chosen_aggregate(model: FederatedModel, form: QueryDict) -> ModelAggregate:
    chosen = form.get("aggregate", "")
    aggregate = model.aggregates.filter(pk=int(chosen)).first() if chosen.isdecimal() else None
    if aggregate is None:
        raise CommandError("choose one of the model's aggregates")
    return aggregate


def _version(form: QueryDict) -> str:
    return form.get("version", "").strip()


def _publish_consequences(model: FederatedModel, form: QueryDict) -> list[str]:
    aggregate, current = _chosen_aggregate(model, form), model.current_artifact
    sentences = [
        f"Aggregate {aggregate.number} becomes version {_version(form)} of {model}.",
        "A version cannot be changed or removed afterwards.",
    ]
    if current:
        sentences.append(f"It replaces version {current.version} as the current artifact.")
    if aggregate.dropped():
        sentences.append(f"It will be refused: {aggregate.dropped()}.")
    return sentences


def _rollback_consequences(model: FederatedModel, form: QueryDict) -> list[str]:
    aggregate = _chosen_aggregate(model, form)
    latest = model.aggregates.order_by("-number").values_list("number", flat=True)[0]
    sentences = [
        f"The weights of aggregate {aggregate.number} become aggregate {latest + 1}, the latest: "
        "clients train from them next.",
        "No aggregate is changed or removed.",
    ]
    ready = model.model_updates.filter(status__in=ModelUpdate.READY).count()
    if ready and model.furthest_base_agg is not None:
        sentences.append(
            f"Of the {ready} updates that are ready, those based on an aggregate before number "
            f"{latest + 2 - model.furthest_base_agg} are rejected."
        )
    if model.allow_aggregation:
        sentences.append("Rounds keep running: pause the model first if they should not.")
    return sentences


#: The actions by the name of their command.
ACTIONS = {
    "pause": Action(
        arguments=lambda model, form: [
            str(model.pk),
            f"--reason={form.get('reason', '').strip() or 'paused in the admin'}",
        ]
    ),
    "resume": Action(arguments=lambda model, form: [str(model.pk)]),
    "run_round": Action(arguments=lambda model, form: [str(model.pk)]),
    "publish": Action(
        arguments=lambda model, form: [
            str(_chosen_aggregate(model, form).pk),
            f"--version={_version(form)}",
        ],
        consequences=_publish_consequences,
        label="Publish",
    ),
    "rollback": Action(
        arguments=lambda model, form: [str(_chosen_aggregate(model, form).pk)],
        consequences=_rollback_consequences,
        label="Roll back",
    ),
}
