"""The models in Django's admin."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    QueryDict,
)
from django.shortcuts import get_object_or_404
from django.urls import path, reverse

from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from models_app import models
from models_app.control_room import control_room


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


class RecordAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What the protocol has written is looked at, not changed: one changed status, and an update would
    count twice."""

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(models.FederatedModel)
class FederatedModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Federated models, each with its control room.

    Whoever may view or change federated models sees all of them; other staff see those they develop.
    Only who may change them acts on them. Acts are management commands, called by their names: what
    they do belongs to `connectors`, which this app does not import. Whether a model is paused is changed
    by its acts alone: a form that was opened before a pause and saved after it would resume the model.
    """

    form = FederatedModelForm
    change_form_template = "models_app/federated_model.html"
    list_display = (
        "name",
        "allow_aggregation",
        "failed_rounds",
        "aggregator",
        "requirement",
        "last_modified",
    )
    filter_horizontal = ("clients",)
    readonly_fields = (
        "allow_aggregation",
        "pause_reason",
        "failed_rounds",
        "created_on",
        "last_modified",
    )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None or self._sees_all(request):
            return _is_staff(request)
        return _is_staff(request) and obj.developer_id == request.user.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[models.FederatedModel]:
        everything: QuerySet[models.FederatedModel] = super().get_queryset(request)
        if self._sees_all(request):
            return everything
        return everything.filter(developer_id=request.user.pk)

    def _sees_all(self, request: HttpRequest) -> bool:
        return super().has_view_permission(request)

    def get_urls(self) -> list[Any]:
        act = path(
            "<int:pk>/act/<str:name>/",
            self.admin_site.admin_view(self.act),
            name="models_app_federatedmodel_act",
        )
        return [act, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        model = self.get_object(request, object_id)
        context = dict(extra_context or {})
        if model is not None and self.has_view_permission(request, model):
            context["room"] = control_room(model)
            context["may_act"] = self.has_change_permission(request, model)
        return super().change_view(request, object_id, form_url, context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write what was changed in the form and nothing else, whatever rounds write meanwhile."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        changed = [name for name in form.changed_data if name in columns]
        obj.save(update_fields=[*changed, "last_modified"])

    def act(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Do what a button of the control room asks for."""
        model = get_object_or_404(self.get_queryset(request), pk=pk)
        if not self.has_change_permission(request, model):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if name not in ACTS:
            raise Http404(f"there is no act {name!r}")
        said = StringIO()
        try:
            arguments = ACTS[name](model, request.POST)
            call_command(name, *arguments, stdout=said, stderr=StringIO())
        except CommandError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.log_change(request, model, said.getvalue().strip())
            self.message_user(request, said.getvalue().strip(), _level(said.getvalue()))
        return HttpResponseRedirect(reverse("admin:models_app_federatedmodel_change", args=[pk]))


#: How the answer of a round begins that made no aggregate.
NOT_MADE = ("waiting", "busy", "paused", "rejected")


def _level(said: str) -> int:
    """A round that was asked for and made no aggregate is no success."""
    return messages.WARNING if said.startswith(NOT_MADE) else messages.SUCCESS


def _is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


def _aggregate(model: models.FederatedModel, form: QueryDict) -> str:
    """The id of the aggregate that was chosen, which must be the model's own."""
    chosen = form.get("aggregate", "")
    if not chosen.isdecimal() or not model.aggregates.filter(pk=int(chosen)).exists():
        raise CommandError("choose one of the model's aggregates")
    return chosen


#: The acts, which are commands, and the arguments that each is called with.
ACTS: dict[str, Callable[[models.FederatedModel, QueryDict], list[str]]] = {
    "pause": lambda model, form: [
        str(model.pk),
        f"--reason={form.get('reason', '').strip() or 'paused in the admin'}",
    ],
    "resume": lambda model, form: [str(model.pk)],
    "run_round": lambda model, form: [str(model.pk)],
    "publish": lambda model, form: [
        _aggregate(model, form),
        f"--version={form.get('version', '').strip()}",
    ],
    "rollback": lambda model, form: [_aggregate(model, form)],
}


@admin.register(models.ModelUpdate)
class ModelUpdateAdmin(RecordAdmin):
    """Updates, with the reasons of those that were rejected."""

    list_display = ("id", "federated_model", "client", "status", "num_examples", "rejection_reason")
    list_filter = ("federated_model", "status")


@admin.register(models.AggregationRound)
class AggregationRoundAdmin(RecordAdmin):
    """Rounds."""

    list_display = ("id", "federated_model", "number", "state", "attempt", "updates_used", "error")
    list_filter = ("federated_model", "state")


@admin.register(models.ModelAggregate)
class ModelAggregateAdmin(RecordAdmin):
    """The lineages of aggregates."""

    list_display = ("id", "federated_model", "number", "validation_score", "created_on")
    list_filter = ("federated_model",)


@admin.register(models.ClientAggregateScore)
class ClientAggregateScoreAdmin(RecordAdmin):
    """What clients measured of aggregates."""

    list_display = ("id", "aggregate", "client", "created_on")
    list_select_related = ("aggregate__federated_model",)


admin.site.site_header = admin.site.site_title = "Federated aggregator"
admin.site.register([models.Client, models.ModelArtifact])
