"""The clients of a model, by pages: when each was last seen, and what became of its updates."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Max, OuterRef, Q, QuerySet, Subquery

from models_app.models import Client, FederatedModel, ModelUpdate

#: Rows of a page of a list, and of a table.
ROWS = 25

#: The orders of a page. Clients that never sent anything come first by `LAST_SEEN`.
BY_NAME, BY_LAST_SEEN = "name", "last_seen"


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """A client of a model.

    Parameters
    ----------
    pk : UUID
    name : str
        Empty if it has none.
    state : str
        Of the client: ``invited``, ``active`` or ``paused``.
    last_seen : datetime or None
        When it last uploaded an update to this model.
    used, rejected : int
        Its updates that are part of an aggregate, and those that were rejected.
    last_reason : str
        Why its latest rejected update was rejected; empty if none was.
    last_rejected : int or None
        The id of that update.
    norm, contribution : float or None
        Of its latest used update: the norm of its difference from the parent, and the cosine of that and
        the aggregate's; None if the rule measures neither.
    """

    pk: uuid.UUID
    name: str
    state: str
    last_seen: datetime | None
    used: int
    rejected: int
    last_reason: str
    last_rejected: int | None
    norm: float | None
    contribution: float | None

    @property
    def label(self) -> str:
        """The name, or the id of a client without one."""
        return self.name or str(self.pk)


@dataclass(frozen=True, kw_only=True)
class ClientPage:
    """Some of the clients of a model.

    Parameters
    ----------
    rows : tuple of ClientRow
    page, pages : int
        Counted from 1; there is at least one page.
    total : int
        Clients that match the search.
    """

    rows: tuple[ClientRow, ...]
    page: int
    pages: int
    total: int


def client_page(
    model: FederatedModel, page: int = 1, *, search: str = "", order: str = BY_NAME
) -> ClientPage:
    """Return a page of a model's clients, in three statements.

    Parameters
    ----------
    model : FederatedModel
    page : int
        Counted from 1; the nearest page if there are fewer.
    search : str
        A part of the name, or the beginning of the id; empty for all clients.
    order : str
        `BY_NAME` or `BY_LAST_SEEN`.
    """
    clients = clients_matching(search) if search else Client.objects.all()
    clients = clients.filter(federated_models=model)
    total = clients.count()
    pages = max(1, -(-total // ROWS))
    page = min(max(page, 1), pages)
    start = (page - 1) * ROWS
    shown = _annotated(model, clients, order)[start : start + ROWS]
    chosen = list(shown)
    counts = _counts(model, [client.pk for client in chosen])
    rows = tuple(_row(client, *counts.get(client.pk, (0, 0))) for client in chosen)
    return ClientPage(rows=rows, page=page, pages=pages, total=total)


def clients_matching(text: str) -> QuerySet[Client]:
    """Return the clients whose name contains a text, or whose id begins with it."""
    matches = Q(name__icontains=text)
    digits = text.replace("-", "").lower()
    if digits and set(digits) <= set("0123456789abcdef") and len(digits) <= 32:
        first, last = (uuid.UUID(digits.ljust(32, filler)) for filler in "0f")
        matches |= Q(pk__range=(first, last))
    return Client.objects.filter(matches)


def _annotated(model: FederatedModel, clients: QuerySet[Client], order: str) -> QuerySet[Any]:
    """Return clients with their latest updates, each of which one index lookup finds."""
    updates = ModelUpdate.objects.filter(client=OuterRef("pk"), federated_model=model)
    latest = updates.order_by("-uploaded_on", "-pk")
    rejected = latest.filter(status=ModelUpdate.Status.INVALID)
    used = latest.filter(status=ModelUpdate.Status.COMPLETE)
    seen = updates.order_by().values("client").annotate(seen=Max("uploaded_on")).values("seen")
    first = (F("last_seen").asc(nulls_first=True),) if order == BY_LAST_SEEN else ()
    found: QuerySet[Any] = clients.annotate(
        last_seen=Subquery(seen),
        rejected_pk=Subquery(rejected.values("pk")[:1]),
        rejected_reason=Subquery(rejected.values("rejection_reason")[:1]),
        norm=Subquery(used.values("norm")[:1]),
        cosine=Subquery(used.values("cosine")[:1]),
    )
    return found.order_by(*first, "name", "pk")


def _counts(
    model: FederatedModel, clients: Sequence[uuid.UUID]
) -> dict[uuid.UUID, tuple[int, int]]:
    """Return how many updates of each client were used and rejected."""
    status = ModelUpdate.Status
    counted = (
        ModelUpdate.objects.filter(federated_model=model, client__in=list(clients))
        .order_by()
        .values("client_id")
        .annotate(
            used=Count("pk", filter=Q(status=status.COMPLETE)),
            rejected=Count("pk", filter=Q(status=status.INVALID)),
        )
    )
    return {
        client: (used, rejected)
        for client, used, rejected in counted.values_list("client_id", "used", "rejected")
    }


def _row(client: Any, used: int, rejected: int) -> ClientRow:
    return ClientRow(
        pk=client.pk,
        name=client.name,
        state=client.state,
        last_seen=client.last_seen,
        used=used,
        rejected=rejected,
        last_reason=client.rejected_reason or "",
        last_rejected=client.rejected_pk,
        norm=client.norm,
        contribution=client.cosine,
    )
