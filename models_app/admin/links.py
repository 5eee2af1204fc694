"""Links to the pages of records, times and numbers, as every page shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app.models import (
    AggregationRound,
    Client,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
)

NOTHING = SafeString('<span class="quiet">–</span>')

#: How a status or state looks: its word, and the class of the stylesheet.
STATUSES = {
    ModelUpdate.Status.PENDING: ("Ready", "plain"),
    ModelUpdate.Status.RUNNING: ("In a round", "busy"),
    ModelUpdate.Status.COMPLETE: ("Used", "good"),
    ModelUpdate.Status.FAILED: ("Ready again", "plain"),
    ModelUpdate.Status.INVALID: ("Rejected", "bad"),
}
STATES = {
    AggregationRound.State.RUNNING: ("Running", "busy"),
    AggregationRound.State.PUBLISHED: ("Published", "good"),
    AggregationRound.State.FAILED: ("Failed", "bad"),
    AggregationRound.State.REJECTED: ("Too few updates", "bad"),
}


def url_of(row: Model) -> str:
    """Return the address of a row's page."""
    if isinstance(row, FederatedModel):
        return reverse("admin:models_app_federatedmodel_overview", args=[row.pk])
    return reverse(f"admin:models_app_{row._meta.model_name}_change", args=[row.pk])


def name_of(row: Model) -> str:
    """Return what a row is called in the text of a page."""
    match row:
        case AggregationRound(number=number):
            return f"Round {number}"
        case ModelAggregate(number=number):
            return f"Aggregate {number}"
        case ModelUpdate(pk=pk):
            return f"Update {pk}"
        case ModelArtifact(version=version):
            return version
        case Client(name="", uuid=uuid):
            return str(uuid)[:8]
    return str(row)


def link(row: Model | None, text: str = "") -> SafeString:
    """Return a link to a row's page; a dash for None."""
    if row is None:
        return NOTHING
    extra = SafeString(' class="unbroken"')
    if isinstance(row, FederatedModel | Client):
        extra = format_html(' title="{}"', row.pk) if isinstance(row, Client) else SafeString("")
    return format_html('<a href="{}"{}>{}</a>', url_of(row), extra, text or name_of(row))


def model_list(kind: type[Model], model: int, **filters: Any) -> str:
    """Return the address of the records of a federated model, which has the model's tabs."""
    field = "federatedmodel" if kind is FederatedModel.clients.through else "federated_model"
    query = "".join(f"&{name}={value}" for name, value in filters.items())
    base = reverse(f"admin:models_app_{kind._meta.model_name}_changelist")
    return f"{base}?{field}__id__exact={model}{query}"


def moment(when: datetime | None) -> SafeString:
    """Return a time in UTC, which a script shows in the viewer's time zone; a dash for None."""
    if when is None:
        return NOTHING
    utc = when.astimezone(UTC)
    return format_html(
        '<time datetime="{}">{} UTC</time>',
        utc.isoformat(timespec="seconds"),
        f"{utc:%Y-%m-%d %H:%M:%S}",
    )


def number(value: float | None) -> SafeString | str:
    """Return a number with four significant digits, or a whole one with all its digits."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def badge(text: str, kind: str) -> SafeString:
    """Return a word in a coloured frame; the kind is a class of the stylesheet."""
    return format_html('<span class="badge {}">{}</span>', kind, text)


def client_badge(state: str) -> SafeString:
    """Return the badge of a client's state."""
    styles = {"active": "good", "paused": "bad"}
    return badge(state.capitalize(), styles.get(state, "plain"))


def status_badge(update: ModelUpdate) -> SafeString:
    """Return an update's status."""
    return badge(*STATUSES[ModelUpdate.Status(update.status)])


def state_badge(made_by: AggregationRound) -> SafeString:
    """Return a round's state."""
    return badge(*STATES[AggregationRound.State(made_by.state)])


def parents_of(row: Any, tab: str) -> list[SafeString]:
    """Return links to the federated model of a record, and to the tab of its kind."""
    url = model_list(type(row), row.federated_model_id)
    return [link(row.federated_model), format_html('<a href="{}">{}</a>', url, tab)]


def used_of(obj: AggregationRound) -> SafeString | int:
    """Return how many updates a round used; of a roll-back, a link to what it restored."""
    original = obj.config_snapshot.get("rolled_back_to")
    if original is None:
        return obj.updates_used
    url = reverse("admin:models_app_modelaggregate_change", args=[original])
    return format_html('<a href="{}" class="unbroken">roll-back</a>', url)
