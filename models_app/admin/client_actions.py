"""The actions on clients."""

from __future__ import annotations

from models_app.admin.actions import Action, Field, Form
from models_app.models import Client


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
