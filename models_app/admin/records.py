"""Updates, rounds, aggregates, scores and versions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from models_app import models
from models_app.admin.base import PagedAdmin, RecordAdmin


@admin.register(models.ModelUpdate)
class ModelUpdateAdmin(RecordAdmin):
    """Updates, with the reasons of those that were rejected."""

    list_display = ("id", "federated_model", "client", "status", "num_examples", "rejection_reason")
    list_filter = ("status", "federated_model")
    list_select_related = ("federated_model", "client")
    search_fields = ("id__exact", "client__exact")
    search_help_text = "The id of an update or of a client."


@admin.register(models.AggregationRound)
class AggregationRoundAdmin(RecordAdmin):
    """Rounds, with what each task did if several functions shared one."""

    readonly_fields = ("functions",)
    list_display = ("id", "federated_model", "number", "state", "attempt", "updates_used", "error")
    list_filter = ("state", "federated_model")
    list_select_related = ("federated_model",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        hidden = {"workers"} if obj and obj.workers else {"workers", "functions"}
        return [name for name in super().get_fields(request, obj) if name not in hidden]

    def functions(self, obj: models.AggregationRound) -> SafeString:
        """Return a table of the tasks of a round that several functions shared."""
        rows = obj.task_rows()
        heads = format_html_join("", "<th>{}</th>", ((name,) for name in rows[0]))
        lines = [
            format_html(
                "<tr>{}</tr>", format_html_join("", "<td>{}</td>", ((v,) for v in row.values()))
            )
            for row in rows
        ]
        return format_html(
            "{} at a time<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
            obj.workers["functions"],
            heads,
            mark_safe("".join(lines)),  # noqa: S308 - its parts are escaped.
        )


@admin.register(models.ModelAggregate)
class ModelAggregateAdmin(RecordAdmin):
    """The lineages of aggregates."""

    list_display = ("id", "federated_model", "number", "validation_score", "created_on")
    list_filter = ("federated_model",)
    list_select_related = ("federated_model",)


@admin.register(models.ClientAggregateScore)
class ClientAggregateScoreAdmin(RecordAdmin):
    """Scores that clients measured of aggregates."""

    list_display = ("id", "aggregate", "client", "created_on")
    list_select_related = ("aggregate__federated_model", "client")


@admin.register(models.ModelArtifact)
class ModelArtifactAdmin(PagedAdmin):
    """Versions, which never change."""

    list_display = ("id", "federated_model", "version", "created_on")
    list_filter = ("federated_model",)
    list_select_related = ("federated_model",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
