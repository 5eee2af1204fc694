"""What the overview and the client list of a federated model show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from django.core.paginator import Page, Paginator
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from models_app.admin.links import NOTHING, badge, client_badge, link, model_list, moment, number
from models_app.admin.pages import Cell, Table
from models_app.control_room import control_room
from models_app.control_room.page import ControlRoom
from models_app.control_room.tensors import tensors_by_policy
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from models_app.overview import ClientRow, MarkKind, ModelOverview, Tile, client_page
from models_app.overview.clients import BY_LAST_SEEN, BY_NAME, ROWS


def linked(kind: str, pk: object, text: str) -> SafeString:
    """Return a link to a record's page."""
    return format_html(
        '<a href="{}">{}</a>', reverse(f"admin:models_app_{kind}_change", args=[pk]), text
    )


def overview_context(model: FederatedModel, *, with_tensors: bool) -> dict[str, Any]:
    """Return the context of the overview.

    Parameters
    ----------
    model : FederatedModel
    with_tensors : bool
        Whether the header of the latest weights is read, to list the tensors by policy.
    """
    room = control_room(model, linked)
    return {
        "overview": room.overview,
        "tiles": list(_tiles(model, room.overview)),
        "plots": room.plots,
        "measures_norms": room.measures_norms,
        "tables": [
            each for each in (_reasons(model, room), _directions(room), _events(room)) if each
        ],
        "tensors": _tensors(model) if with_tensors else {},
    }


def _tiles(model: FederatedModel, overview: ModelOverview) -> Iterator[tuple[Tile, str]]:
    """Yield the figures with the addresses of what they count; the head of the page shows the state."""
    for tile in overview.tiles:
        url = _url(model, tile)
        if tile.label == "Updates":
            ready, needed = overview.card.ready, overview.card.needed
            value = f"{ready}, {needed} needed" if ready > needed else f"{ready} of {needed}"
            yield replace(tile, label="Updates ready", value=value), url
        elif tile.label != "State":
            yield tile, url


def _url(model: FederatedModel, tile: Tile) -> str:
    """Return the address of what a tile counts or names; empty if there is none."""
    for kind, pk in (
        ("aggregationround", tile.round),
        ("modelaggregate", tile.aggregate),
        ("modelartifact", tile.artifact),
    ):
        if pk is not None:
            return reverse(f"admin:models_app_{kind}_change", args=[pk])
    lists = {
        "Updates": model_list(ModelUpdate, model.pk),
        "Clients": reverse("admin:models_app_federatedmodel_clients", args=[model.pk]),
        "Aggregate": model_list(ModelAggregate, model.pk),
        "Duration of a round": model_list(AggregationRound, model.pk),
    }
    return lists.get(tile.label, "")


def _reasons(model: FederatedModel, room: ControlRoom) -> Table:
    rejected = model_list(ModelUpdate, model.pk, status__exact=ModelUpdate.Status.INVALID)
    return Table(
        heading="Why updates were rejected",
        heads=["Updates", "Reason"],
        rows=[[each.count, each.reason] for each in room.overview.reasons],
        empty="No update was rejected.",
        more=format_html('<a href="{}">All rejected updates</a>', rejected),
    )


def _directions(room: ControlRoom) -> Table | None:
    if not room.contributions:
        return None
    return Table(
        heading="Directions of the latest updates",
        heads=["Update", "Client", "Cosine with the aggregate", "Norm"],
        rows=[
            [link(each), link(each.client), _cosine(each.cosine), number(each.norm)]
            for each in room.contributions
        ],
        more="The cosine is 1 for the same direction, 0 if there is none in common, and below 0 for the "
        "opposite one.",
    )


def _cosine(cosine: float | None) -> Cell:
    if cosine is None:
        return NOTHING
    kind = "bad" if cosine < 0 else ""
    return format_html('<span class="{}">{}</span>', kind, f"{cosine:.2f}")


def _events(room: ControlRoom) -> Table | None:
    """Return the marks of the learning curve but for the rejections, which have a table of their own."""
    marks = [each for each in room.overview.curve.marks if each.kind != MarkKind.REJECTED]
    if not marks:
        return None
    rows: list[list[Cell]] = []
    for each in marks[: -ROWS - 1 : -1]:
        what: Cell = each.text[:1].upper() + each.text[1:]
        if each.round is not None:
            place = linked("aggregationround", each.round, f"Round {each.number}")
        else:
            place = linked("modelartifact", each.artifact, f"Aggregate {each.number}")
        rows.append([place, badge(str(each.kind), ""), what])
    return Table(heading="What happened", heads=["Where", "Kind", "What"], rows=rows)


def _tensors(model: FederatedModel) -> dict[str, Any]:
    found = tensors_by_policy(model)
    if "problem" in found:
        return found
    return {
        "table": Table(
            heading="Tensors by their policy in the next round",
            heads=["Policy", "Tensors", "Names"],
            rows=[[row["policy"], row["count"], row["names"]] for row in found["rows"]],
            empty="The model has no weights yet.",
        )
    }


def clients_context(model: FederatedModel, query: dict[str, str]) -> dict[str, Any]:
    """Return the context of the list of clients, from the parameters of its address."""
    asked = query.get("page", "")
    search = query.get("q", "").strip()
    order = BY_LAST_SEEN if query.get("order") == BY_LAST_SEEN else BY_NAME
    found = client_page(model, int(asked) if asked.isdecimal() else 1, search=search, order=order)
    kept = {"q": search, "order": "" if order == BY_NAME else order}
    return {
        "table": Table(
            heading="Clients",
            heads=[
                "Client",
                "State",
                "Last seen",
                "Used",
                "Rejected",
                "Last reason",
                "Norm",
                "Contribution",
            ],
            rows=[_client(row) for row in found.rows],
            empty="No client matches." if search else "The model has no clients.",
        ),
        "page_obj": Page([], found.page, Paginator(range(found.total), ROWS)),
        "total": found.total,
        "search": search,
        "order": order,
        "query": "".join(f"&{urlencode({name: value})}" for name, value in kept.items() if value),
    }


def _client(row: ClientRow) -> list[Cell]:
    reason: Cell = NOTHING
    if row.last_rejected is not None:
        reason = linked("modelupdate", row.last_rejected, row.last_reason or "rejected")
    return [
        linked("client", row.pk, row.label),
        client_badge(row.state),
        moment(row.last_seen),
        row.used,
        row.rejected,
        reason,
        number(row.norm),
        number(row.contribution),
    ]
