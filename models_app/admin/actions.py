"""The actions of the console. Each runs the management command of its name.

Commands are called by name, because they belong to `connectors`, which this app does not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from django.contrib import messages
from django.core.management import CommandError, call_command
from django.utils.formats import localize

from models_app.models import Client, FederatedModel, ModelAggregate, ModelUpdate

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


def chosen_aggregate(model: FederatedModel, form: Form) -> ModelAggregate:
    """Return the aggregate that was chosen.

    Raises
    ------
    CommandError
        If it is none of the model's.
    """
    chosen = form.get("aggregate", "")
    aggregate = model.aggregates.filter(pk=int(chosen)).first() if chosen.isdecimal() else None
    if aggregate is None:
        raise CommandError("choose one of the model's aggregates")
    return aggregate


def _version(form: Form) -> str:
    return form.get("version", "").strip()


def _ready(model: FederatedModel) -> int:
    return model.model_updates.filter(status__in=ModelUpdate.READY).count()


def _updates(count: int) -> str:
    return "1 update" if count == 1 else f"{localize(count)} updates"


def _publish_consequences(model: FederatedModel, form: Form) -> list[str]:
    aggregate, current = chosen_aggregate(model, form), model.current_artifact
    if not _version(form):
        raise CommandError("give the version a name, such as 1.2.0")
    sentences = [
        f"Aggregate {aggregate.number} becomes version {_version(form)} of {model}.",
        "A version cannot be changed or removed afterwards.",
    ]
    if current:
        sentences.append(f"It replaces version {current.version} as the current artifact.")
    if aggregate.dropped():
        sentences.append(f"It will be refused: {aggregate.dropped()}.")
    return sentences


def _rollback_consequences(model: FederatedModel, form: Form) -> list[str]:
    aggregate = chosen_aggregate(model, form)
    latest = model.aggregates.order_by("-number").values_list("number", flat=True)[0]
    sentences = [
        f"The weights of aggregate {aggregate.number} become aggregate {latest + 1}, the latest: "
        "clients train from them next.",
        "No aggregate is changed or removed.",
    ]
    ready = _ready(model)
    if ready and model.furthest_base_agg is not None:
        oldest = latest + 2 - model.furthest_base_agg
        sentences.append(
            f"Of the {_updates(ready)} that are ready, those based on an aggregate before number "
            f"{oldest} are rejected."
        )
    if model.allow_aggregation:
        sentences.append("Rounds keep running: pause the model first if they should not.")
    return sentences


def _pause_consequences(model: FederatedModel, form: Form) -> list[str]:
    ready = _ready(model)
    waiting = (
        f"{_updates(ready)} that {'is' if ready == 1 else 'are'} ready and all that arrive wait"
    )
    return [
        "No round starts until the model is resumed; a round that runs now is finished.",
        "Clients may go on uploading: " + (f"the {waiting}." if ready else "their updates wait."),
        "Nothing is rejected or lost because of the pause.",
    ]


def _memberships(client: Client) -> int:
    return client.federated_models.count()


def _models_of(client: Client) -> str:
    count = _memberships(client)
    return "its model" if count == 1 else f"its {count} models"


def _pause_client_consequences(client: Client, form: Form) -> list[str]:
    return [
        f"Uploads of {client} to {_models_of(client)} are rejected until it is resumed.",
        "Its ready updates are not used, and no round waits for it.",
        "What it contributed so far stays in the lineage.",
    ]


def _revoke_consequences(client: Client, form: Form) -> list[str]:
    return [
        f"{client} loses its secret, or its invitation if it has not enrolled: the API refuses it within "
        "a minute. It needs a new invitation to come back.",
        *_pause_client_consequences(client, form),
    ]


def _invite_arguments(model: FederatedModel, form: Form) -> list[str]:
    return [
        str(model.pk),
        f"--count={form.get('count', '').strip() or '1'}",
        f"--expires={form.get('expires', '').strip() or '7d'}",
        "--json",
    ]


AGGREGATE = Field(name="aggregate", label="Aggregate")

#: Actions on federated models, by the name of their command.
ACTIONS = {
    "pause": Action(
        title="Pause {}?",
        label="Pause",
        is_dangerous=True,
        arguments=lambda model, form: [
            str(model.pk),
            f"--reason={form.get('reason', '').strip() or 'paused in the console'}",
        ],
        consequences=_pause_consequences,
        details=(
            Field(
                name="reason",
                label="Reason",
                help="Shown on the model's pages and in its history.",
            ),
        ),
    ),
    "resume": Action(arguments=lambda model, form: [str(model.pk)]),
    "run_round": Action(arguments=lambda model, form: [str(model.pk)]),
    "publish": Action(
        title="Publish a version of {}",
        label="Publish",
        arguments=lambda model, form: [
            str(chosen_aggregate(model, form).pk),
            f"--version={_version(form)}",
        ],
        consequences=_publish_consequences,
        choices=(
            AGGREGATE,
            Field(name="version", label="Version", help="A name that is not taken, such as 1.2.0."),
        ),
    ),
    "rollback": Action(
        title="Roll back {}",
        label="Roll back",
        is_dangerous=True,
        arguments=lambda model, form: [str(chosen_aggregate(model, form).pk)],
        consequences=_rollback_consequences,
        choices=(AGGREGATE,),
    ),
    "add_clients": Action(
        title="Add a client to {}",
        label="Add",
        arguments=lambda model, form: [
            str(model.pk),
            f"--client={form.get('client', '').strip()}",
        ],
        consequences=lambda model, form: [
            "The client becomes a member: it may send updates, and rounds wait for it if the requirement "
            "counts members.",
            "A name that no client has creates a client of that name.",
        ],
        details=(Field(name="client", label="Name or id of the client"),),
    ),
    "invite": Action(
        title="Invite clients to {}",
        label="Create invitations",
        shows_output=True,
        arguments=_invite_arguments,
        consequences=lambda model, form: [
            "Each invitation has a one-time token, which is shown once and never again.",
            "A client counts as a member as soon as it has enrolled with its token.",
        ],
        details=(
            Field(name="count", label="Clients", default="1"),
            Field(
                name="expires",
                label="Valid for",
                default="7d",
                help="Such as 7d or 36h.",
            ),
        ),
    ),
}

#: Actions on clients, by the name of their command.
CLIENT_ACTIONS = {
    "pause_client": Action(
        title="Pause {}?",
        label="Pause",
        is_dangerous=True,
        arguments=lambda client, form: [str(client.pk)],
        consequences=_pause_client_consequences,
    ),
    "resume_client": Action(arguments=lambda client, form: [str(client.pk)]),
    "rename_client": Action(
        title="Rename {}",
        label="Rename",
        arguments=lambda client, form: [str(client.pk), "--", form.get("name", "").strip()],
        consequences=lambda client, form: [
            "Every command and every page shows the new name; the id stays the same."
        ],
        details=(Field(name="name", label="New name"),),
    ),
    "revoke_client": Action(
        title="Revoke {}?",
        label="Revoke",
        is_dangerous=True,
        arguments=lambda client, form: [str(client.pk)],
        consequences=_revoke_consequences,
    ),
}
