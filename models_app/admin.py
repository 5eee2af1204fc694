"""The models in Django's admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin

from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from models_app import models


class FederatedModelForm(forms.ModelForm):  # type: ignore[type-arg]
    """Offers the rules and requirements there are."""

    aggregator = forms.ChoiceField(choices=[(name, name) for name in known_rules()])
    requirement = forms.ChoiceField(
        choices=[("", "any update"), *((name, name) for name in known_requirements())],
        required=False,
    )

    class Meta:
        model = models.FederatedModel
        fields = "__all__"


@admin.register(models.FederatedModel)
class FederatedModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Federated models: their rule, requirement, members, and whether they are paused."""

    form = FederatedModelForm
    list_display = ("name", "aggregator", "requirement", "allow_aggregation", "last_modified")
    filter_horizontal = ("clients",)
    readonly_fields = ("pause_reason", "failed_rounds", "created_on", "last_modified")


@admin.register(models.ModelUpdate)
class ModelUpdateAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Updates, with the reasons of those that were rejected."""

    list_display = ("id", "federated_model", "client", "status", "num_examples", "rejection_reason")
    list_filter = ("federated_model", "status")


@admin.register(models.AggregationRound)
class AggregationRoundAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rounds, which are a record: they are looked at, not changed."""

    list_display = ("id", "federated_model", "number", "state", "attempt", "updates_used", "error")
    list_filter = ("federated_model", "state")

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(models.ModelAggregate)
class ModelAggregateAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The lineages of aggregates."""

    list_display = ("id", "federated_model", "number", "validation_score", "created_on")
    list_filter = ("federated_model",)


admin.site.register([models.Client, models.ModelArtifact, models.ClientAggregateScore])
