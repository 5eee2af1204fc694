"""The actions on federated models."""

from __future__ import annotations

from django.core.management import CommandError
from django.utils.formats import localize

from models_app.admin.actions import Action, Field, Form
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate


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
