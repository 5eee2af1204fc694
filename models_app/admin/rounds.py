"""Rounds, and what became of their updates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app import models
from models_app.admin.base import MODEL_FILTER, RecordAdmin
from models_app.admin.links import (
    NOTHING,
    link,
    model_list,
    moment,
    number,
    parents_of,
    state_badge,
    status_badge,
    used_of,
)
from models_app.admin.pages import Cell, PageAdmin, RecordPage, Table
from models_app.control_room.charts import BYTES, amount
from models_app.overview.clients import ROWS
from models_app.overview.rounds import in_time
from models_app.privacy import spent_after


@admin.register(models.AggregationRound)
class AggregationRoundAdmin(RecordAdmin, PageAdmin):
    """Rounds, with what each task did if several functions shared one."""

    tab = "Rounds"
    list_display = ("name", "outcome", "used", "rejected", "result", "took", "begun", "fault")
    list_filter = ("state", MODEL_FILTER)
    list_select_related = ("aggregate",)
    search_fields = ("number__exact",)
    search_help_text = "Number of a round"
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("checkpoint")

    @admin.display(description="round")
    def name(self, obj: models.AggregationRound) -> str:
        """Return what a round is called."""
        return f"Round {obj.number}"

    @admin.display(description="state")
    def outcome(self, obj: models.AggregationRound) -> SafeString:
        """Return the state."""
        return state_badge(obj)

    @admin.display(description="used")
    def used(self, obj: models.AggregationRound) -> SafeString | int:
        """Return how many updates were used; of a roll-back, what it restored."""
        return used_of(obj)

    @admin.display(description="rejected")
    def rejected(self, obj: models.AggregationRound) -> SafeString | int:
        """Return how many updates were rejected, with a link to them."""
        if not obj.updates_rejected:
            return 0
        url = model_list(
            models.ModelUpdate, obj.federated_model_id, round__id__exact=obj.pk, status__exact=4
        )
        return format_html('<a href="{}" class="bad">{}</a>', url, obj.updates_rejected)

    @admin.display(description="took")
    def took(self, obj: models.AggregationRound) -> SafeString | str:
        """Return how long the round took."""
        return _took(obj)

    @admin.display(description="aggregate")
    def result(self, obj: models.AggregationRound) -> SafeString:
        """Return a link to the aggregate."""
        return link(obj.aggregate)

    @admin.display(description="error")
    def fault(self, obj: models.AggregationRound) -> SafeString | str:
        """Return why it made no aggregate, in full."""
        return obj.error or NOTHING

    @admin.display(description="started")
    def begun(self, obj: models.AggregationRound) -> SafeString:
        """Return when the round started."""
        return moment(obj.started_on)

    def record_page(self, request: HttpRequest, obj: models.AggregationRound) -> RecordPage:
        functions = obj.workers.get("functions", 1) if obj.workers else 1
        return RecordPage(
            parents=parents_of(obj, "Rounds"),
            badge=state_badge(obj),
            problem=obj.error,
            facts=[
                ("Started", moment(obj.started_on)),
                ("Finished", moment(obj.finished_on)),
                ("Took", _took(obj)),
                ("Updates used", used_of(obj)),
                ("Updates rejected", self.rejected(obj)),
                ("Read", amount(obj.bytes_read, BYTES)),
                ("Aggregate", link(obj.aggregate)),
                ("Parent", link(obj.parent) if obj.parent else "the initial model"),
                ("Functions", functions),
                ("Attempt", obj.attempt),
                *privacy_facts(obj),
            ],
            tables=[*_tasks(obj), _updates_of_round(obj), _settings(obj)],
        )


def privacy_facts(made_by: models.AggregationRound | None) -> list[tuple[str, Cell]]:
    """Return the fact of what a private model has spent after a round."""
    words = spent_after(made_by)
    return [("Privacy spent", words)] if words else []


def _took(obj: models.AggregationRound) -> SafeString | str:
    return NOTHING if obj.seconds is None else in_time(obj.seconds)


def _tasks(obj: models.AggregationRound) -> Iterable[Table]:
    """Yield a table of the tasks of a round that several functions shared."""
    rows = obj.task_rows()
    if rows:
        heading = f"Tasks, {obj.workers['functions']} at a time"
        heads = [name.capitalize() for name in rows[0]]
        yield Table(heading=heading, heads=heads, rows=[list(row.values()) for row in rows])


def _updates_of_round(obj: models.AggregationRound) -> Table:
    updates = obj.updates.select_related("client").order_by("-status", "pk")
    listed = model_list(models.ModelUpdate, obj.federated_model_id, round__id__exact=obj.pk)
    return Table(
        heading="Updates",
        heads=["Update", "Client", "Status", "Examples", "Norm", "Cosine", "Reason"],
        rows=[
            [
                link(each),
                link(each.client),
                status_badge(each),
                number(each.num_examples),
                number(each.norm),
                number(each.cosine),
                each.rejection_reason,
            ]
            for each in updates[:ROWS]
        ],
        more=format_html('<a href="{}">All updates of this round</a>', listed),
    )


#: Settings of a round that are not shown: its seed is secret, the others are keys of objects and sums.
HIDDEN_SETTINGS = {"seed", "directions", "initial", "parent", "optimizer_state", "policies"}


def _settings(obj: models.AggregationRound) -> Table:
    rows: list[list[Cell]] = [
        [name.replace("_", " "), value if isinstance(value, str) else json.dumps(value)]
        for name, value in obj.config_snapshot.items()
        if name not in HIDDEN_SETTINGS and value not in ("", None, {}, [])
    ]
    return Table(heading="Settings when it was claimed", heads=["Setting", "Value"], rows=rows)
