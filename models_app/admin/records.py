"""Updates, rounds, aggregates, scores and versions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

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
    """Rounds."""

    list_display = ("id", "federated_model", "number", "state", "attempt", "updates_used", "error")
    list_filter = ("state", "federated_model")
    list_select_related = ("federated_model",)


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
