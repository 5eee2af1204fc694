"""Updates, rounds, aggregates, scores and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app import models
from models_app.admin.access import may_change_models
from models_app.admin.base import MODEL_FILTER, ROWS, RecordAdmin
from models_app.admin.links import (
    NOTHING,
    link,
    model_list,
    moment,
    number,
    state_badge,
    status_badge,
)
from models_app.admin.pages import Action, Cell, PageAdmin, RecordPage, Table
from models_app.control_room.charts import BYTES, amount, seconds_of
from models_app.overview.model import in_time
from models_app.privacy import spent_after


def _parents(obj: Any, tab: str) -> list[SafeString]:
    """Return links to the federated model of a record, and to the tab of its kind."""
    url = model_list(type(obj), obj.federated_model_id)
    return [link(obj.federated_model), format_html('<a href="{}">{}</a>', url, tab)]


@admin.register(models.ModelUpdate)
class ModelUpdateAdmin(RecordAdmin, PageAdmin):
    """Updates, with the reasons of those that were rejected."""

    tab = "Updates"
    client_path = "client"
    list_display = ("name", "client_link", "state", "reason", "made_by", "examples", "sent")
    list_filter = (("status", admin.ChoicesFieldListFilter), MODEL_FILTER)
    list_select_related = ("client", "round")
    search_fields = ("id__exact",)
    search_help_text = "Name or id of a client, or number of an update"
    ordering = ("-id",)

    @admin.display(description="update")
    def name(self, obj: models.ModelUpdate) -> str:
        """Return what an update is called."""
        return f"Update {obj.pk}"

    @admin.display(description="client")
    def client_link(self, obj: models.ModelUpdate) -> SafeString:
        """Return a link to the client."""
        return link(obj.client)

    @admin.display(description="status")
    def state(self, obj: models.ModelUpdate) -> SafeString:
        """Return the status."""
        return status_badge(obj)

    @admin.display(description="reason")
    def reason(self, obj: models.ModelUpdate) -> SafeString | str:
        """Return why it was rejected, in full."""
        return obj.rejection_reason or NOTHING

    @admin.display(description="round")
    def made_by(self, obj: models.ModelUpdate) -> SafeString:
        """Return a link to the round."""
        return link(obj.round)

    @admin.display(description="examples")
    def examples(self, obj: models.ModelUpdate) -> str:
        """Return the number of examples."""
        return f"{obj.num_examples:,}"

    @admin.display(description="uploaded")
    def sent(self, obj: models.ModelUpdate) -> SafeString:
        """Return when it was uploaded."""
        return moment(obj.uploaded_on)

    def record_page(self, request: HttpRequest, obj: models.ModelUpdate) -> RecordPage:
        return RecordPage(
            parents=_parents(obj, "Updates"),
            badge=status_badge(obj),
            problem=obj.rejection_reason,
            facts=[
                ("Client", link(obj.client)),
                ("Uploaded", moment(obj.uploaded_on)),
                ("Registered", moment(obj.created_on)),
                ("Examples", number(obj.num_examples)),
                ("Steps", number(obj.num_steps)),
                (
                    "Based on",
                    link(obj.base_aggregate) if obj.base_aggregate else "the initial model",
                ),
                ("Round", link(obj.round)),
                ("Part of", link(obj.applied_aggregate)),
                ("Norm of its difference", number(obj.norm)),
                ("Cosine with the aggregate", number(obj.cosine)),
                ("Size", amount(obj.size, BYTES) or NOTHING),
                ("Object", format_html("<code>{}</code>", obj.data.name)),
            ],
        )


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
        return _used(obj)

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
            parents=_parents(obj, "Rounds"),
            badge=state_badge(obj),
            problem=obj.error,
            facts=[
                ("Started", moment(obj.started_on)),
                ("Finished", moment(obj.finished_on)),
                ("Took", _took(obj)),
                ("Updates used", _used(obj)),
                ("Updates rejected", self.rejected(obj)),
                ("Read", amount(obj.bytes_read, BYTES)),
                ("Aggregate", link(obj.aggregate)),
                ("Succeeds", link(obj.parent) if obj.parent else "the initial model"),
                ("Functions", functions),
                ("Attempt", obj.attempt),
                *_privacy(obj),
            ],
            tables=[*_tasks(obj), _updates_of_round(obj), _settings(obj)],
        )


def _took(obj: models.AggregationRound) -> SafeString | str:
    seconds = seconds_of(obj)
    return NOTHING if seconds is None else in_time(seconds)


def _privacy(made_by: models.AggregationRound | None) -> list[tuple[str, Cell]]:
    """Return the fact of what a private model has spent after a round."""
    words = spent_after(made_by)
    return [("Privacy spent", words)] if words else []


def _used(obj: models.AggregationRound) -> SafeString | int:
    original = obj.config_snapshot.get("rolled_back_to")
    if original is None:
        return obj.updates_used
    url = reverse("admin:models_app_modelaggregate_change", args=[original])
    return format_html('<a href="{}" class="unbroken">roll-back</a>', url)


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
        return _used(obj.round) if hasattr(obj, "round") else NOTHING

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
            parents=_parents(obj, "Lineage"),
            problem=obj.dropped(),
            actions=_actions(request, obj),
            facts=[
                ("Score", number(obj.validation_score)),
                ("Made", moment(obj.created_on)),
                ("Round", link(made_by)),
                ("Updates used", _used(made_by) if made_by else NOTHING),
                ("Succeeds", link(obj.parent) if obj.parent else "the initial model"),
                ("Next", link(getattr(obj, "child", None))),
                ("Versions", ", ".join(_versions(obj)) or NOTHING),
                ("Object", format_html("<code>{}</code>", obj.result.name)),
                *_privacy(made_by),
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


def _actions(request: HttpRequest, obj: models.ModelAggregate) -> list[Action]:
    if not may_change_models(request):
        return []
    page, pk = "admin:models_app_federatedmodel_act", obj.federated_model_id
    actions = [
        Action(text="Publish", url=reverse(page, args=[pk, "publish"]) + f"?aggregate={obj.pk}")
    ]
    if hasattr(obj, "child"):
        url = reverse(page, args=[pk, "rollback"]) + f"?aggregate={obj.pk}"
        actions.append(Action(text="Roll back to it", url=url, is_dangerous=True))
    return actions


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

    @admin.display(description="federated model")
    def model_link(self, obj: models.ModelArtifact) -> SafeString:
        """Return a link to the federated model."""
        return link(obj.federated_model)

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
