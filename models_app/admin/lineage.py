"""Aggregates, their scores and versions."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app import models
from models_app.admin.access import may_change_models
from models_app.admin.base import MODEL_FILTER, RecordAdmin
from models_app.admin.links import (
    NOTHING,
    link,
    moment,
    number,
    parents_of,
    used_of,
)
from models_app.admin.pages import Button, PageAdmin, RecordPage, Table
from models_app.admin.rounds import privacy_facts
from models_app.overview.clients import ROWS


@admin.register(models.ModelAggregate)
class ModelAggregateAdmin(RecordAdmin, PageAdmin):
    """The lineages of aggregates."""

    tab = "Lineage"
    list_display = ("name", "score", "made_by", "used", "version", "made")
    list_filter = (MODEL_FILTER,)
    list_select_related = ("federated_model", "parent", "round")
    search_fields = ("number__exact",)
    search_help_text = "Number of an aggregate"
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request).defer("round__checkpoint", "round__workers")
        artifacts = models.ModelArtifact.objects.filter(
            federated_model=OuterRef("federated_model"), values=OuterRef("result")
        )
        latest = artifacts.order_by("-pk").values("version")[:1]
        versioned: QuerySet[Any] = rows.annotate(latest_version=Subquery(latest))
        return versioned

    @admin.display(description="aggregate")
    def name(self, obj: models.ModelAggregate) -> str:
        """Return what an aggregate is called."""
        return f"Aggregate {obj.number}"

    @admin.display(description="score")
    def score(self, obj: models.ModelAggregate) -> SafeString | str:
        """Return the score, and whether the aggregate is held back."""
        if obj.validation_score is None or not (dropped := obj.dropped()):
            return number(obj.validation_score)
        return format_html(
            '{} <span class="badge bad" title="{}">held back</span>',
            f"{obj.validation_score:.4g}",
            dropped,
        )

    @admin.display(description="round")
    def made_by(self, obj: models.ModelAggregate) -> SafeString:
        """Return a link to the round."""
        return link(getattr(obj, "round", None))

    @admin.display(description="used")
    def used(self, obj: models.ModelAggregate) -> SafeString | int:
        """Return how many updates it is made of."""
        return used_of(obj.round) if hasattr(obj, "round") else NOTHING

    @admin.display(description="version")
    def version(self, obj: Any) -> SafeString | str:
        """Return the latest version under which it is published."""
        return obj.latest_version or NOTHING

    @admin.display(description="made")
    def made(self, obj: models.ModelAggregate) -> SafeString:
        """Return when it was made."""
        return moment(obj.created_on)

    def record_page(self, request: HttpRequest, obj: models.ModelAggregate) -> RecordPage:
        made_by = getattr(obj, "round", None)
        scores = obj.client_scores.select_related("client").order_by("client__name", "client")
        return RecordPage(
            parents=parents_of(obj, "Lineage"),
            problem=obj.dropped(),
            buttons=_buttons(request, obj),
            facts=[
                ("Score", number(obj.validation_score)),
                ("Made", moment(obj.created_on)),
                ("Round", link(made_by)),
                ("Updates used", used_of(made_by) if made_by else NOTHING),
                ("Parent", link(obj.parent) if obj.parent else "the initial model"),
                ("Next", link(getattr(obj, "child", None))),
                ("Versions", ", ".join(_versions(obj)) or NOTHING),
                ("Object", format_html("<code>{}</code>", obj.result.name)),
                *privacy_facts(made_by),
            ],
            tables=[
                Table(
                    heading="Scores that clients reported",
                    heads=["Client", "Score", "Reported"],
                    rows=[
                        [link(each.client), _results(each), moment(each.created_on)]
                        for each in scores[:ROWS]
                    ],
                )
            ],
        )


def _versions(obj: models.ModelAggregate) -> list[str]:
    artifacts = models.ModelArtifact.objects.filter(
        federated_model=obj.federated_model_id, values=obj.result.name
    )
    return list(artifacts.order_by("pk").values_list("version", flat=True))


def _results(score: models.ClientAggregateScore) -> str:
    results = score.validation_results
    if not isinstance(results, dict):
        return json.dumps(results)
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in results.items()
    )


def _buttons(request: HttpRequest, obj: models.ModelAggregate) -> list[Button]:
    if not may_change_models(request):
        return []
    page, pk = "admin:models_app_federatedmodel_act", obj.federated_model_id
    buttons = [
        Button(text="Publish", url=reverse(page, args=[pk, "publish"]) + f"?aggregate={obj.pk}")
    ]
    if hasattr(obj, "child"):
        url = reverse(page, args=[pk, "rollback"]) + f"?aggregate={obj.pk}"
        buttons.append(Button(text="Roll back to it", url=url))
    return buttons


@admin.register(models.ClientAggregateScore)
class ClientAggregateScoreAdmin(RecordAdmin, PageAdmin):
    """Scores that clients measured of aggregates."""

    model_path = "aggregate__federated_model"
    client_path = "client"
    list_display = ("name", "aggregate_link", "client_link", "reported")
    list_select_related = ("aggregate__federated_model", "client")
    search_fields = ("id__exact",)
    search_help_text = "Name or id of a client"
    ordering = ("-id",)

    @admin.display(description="score")
    def name(self, obj: models.ClientAggregateScore) -> str:
        """Return the numbers of a score."""
        return _results(obj)

    @admin.display(description="aggregate")
    def aggregate_link(self, obj: models.ClientAggregateScore) -> SafeString:
        """Return a link to the aggregate."""
        return link(
            obj.aggregate, f"{obj.aggregate.federated_model}, aggregate {obj.aggregate.number}"
        )

    @admin.display(description="client")
    def client_link(self, obj: models.ClientAggregateScore) -> SafeString:
        """Return a link to the client."""
        return link(obj.client)

    @admin.display(description="reported")
    def reported(self, obj: models.ClientAggregateScore) -> SafeString:
        """Return when it was reported."""
        return moment(obj.created_on)

    def record_page(self, request: HttpRequest, obj: models.ClientAggregateScore) -> RecordPage:
        return RecordPage(
            title=f"Score of aggregate {obj.aggregate.number}",
            parents=[link(obj.aggregate.federated_model), link(obj.aggregate)],
            facts=[
                ("Client", link(obj.client)),
                ("Aggregate", link(obj.aggregate)),
                ("Results", _results(obj)),
                ("Reported", moment(obj.created_on)),
            ],
        )


@admin.register(models.ModelArtifact)
class ModelArtifactAdmin(RecordAdmin, PageAdmin):
    """Versions, which never change."""

    list_display = ("version", "model_link", "made")
    list_filter = (MODEL_FILTER,)
    list_select_related = ("federated_model",)
    search_fields = ("version",)
    search_help_text = "Version"
    ordering = ("-id",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_app.add_modelartifact")

    @admin.display(description="published")
    def made(self, obj: models.ModelArtifact) -> SafeString:
        """Return when it was published."""
        return moment(obj.created_on)

    def record_page(self, request: HttpRequest, obj: models.ModelArtifact) -> RecordPage:
        source = models.ModelAggregate.objects.filter(
            federated_model=obj.federated_model_id, result=obj.values.name
        ).first()
        return RecordPage(
            title=f"Version {obj.version}",
            parents=[link(obj.federated_model)],
            facts=[
                ("Published", moment(obj.created_on)),
                ("Aggregate", link(source) if source else "the initial model"),
                ("Object", format_html("<code>{}</code>", obj.values.name)),
            ],
        )
