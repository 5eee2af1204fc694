"""Federated models, each with its control room."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse

from models_app.admin.actions import ACTIONS, run
from models_app.admin.base import ProtectedAdmin
from models_app.admin.settings import FederatedModelForm, changes_in_words
from models_app.control_room import control_room
from models_app.control_room.tensors import tensors_by_policy
from models_app.defaults import NEW_MODEL
from models_app.models import FederatedModel
from models_app.scores import DECIDES_SCORES, rescore


@admin.register(FederatedModel)
class FederatedModelAdmin(ProtectedAdmin):
    """Federated models, each with its control room.

    Users who may view or change federated models see all of them; other staff see those they develop.
    Only users who may change them see the buttons. Whether a model is paused is changed by the buttons
    alone: a form that was opened before a pause and saved after it would resume the model.
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
    search_fields = ("name",)
    raw_id_fields = ("current_artifact",)
    readonly_fields = (
        "allow_aggregation",
        "pause_reason",
        "failed_rounds",
        "created_on",
        "last_modified",
    )
    protected_by = ("model_updates", "aggregates", "rounds", "artifacts")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Another kind would change the meaning of updates that clients have sent.
        return (*self.readonly_fields, *(("update_kind",) if obj else ()))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {**NEW_MODEL, **super().get_changeform_initial_data(request)}

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None or self._sees_all(request):
            return _is_staff(request)
        return _is_staff(request) and obj.developer_id == request.user.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[FederatedModel]:
        everything: QuerySet[FederatedModel] = super().get_queryset(request)
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
            if "tensors" in request.GET:
                context["tensors"] = tensors_by_policy(model)
            context["may_act"] = self.has_change_permission(request, model)
        return super().change_view(request, object_id, form_url, context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write only what was changed in the form, because rounds may change other columns meanwhile."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        changed = [name for name in form.changed_data if name in columns]
        obj.save(update_fields=[*changed, "last_modified"])
        if DECIDES_SCORES & set(changed):
            rescore(obj)
        for sentence in changes_in_words(form.initial, obj, changed):
            self.message_user(request, f"From the next round on: {sentence}", messages.INFO)

    def act(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Run an action of the control room, after the user has confirmed its consequences."""
        model = get_object_or_404(self.get_queryset(request), pk=pk)
        if not self.has_change_permission(request, model):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if name not in ACTIONS:
            raise Http404(f"there is no action {name!r}")
        if ACTIONS[name].label and "confirmed" not in request.POST:
            try:
                return self._ask_to_confirm(request, model, name)
            except CommandError as error:
                self.message_user(request, str(error), messages.ERROR)
        else:
            level, text = run(name, model, request.POST)
            if level != messages.ERROR:
                self.log_change(request, model, text)
            self.message_user(request, text, level)
        return HttpResponseRedirect(reverse("admin:models_app_federatedmodel_change", args=[pk]))

    def _ask_to_confirm(
        self, request: HttpRequest, model: FederatedModel, name: str
    ) -> TemplateResponse:
        action = ACTIONS[name]
        hidden = {field: request.POST.get(field, "") for field in ("aggregate", "version")}
        context = {
            **self.admin_site.each_context(request),
            "title": f"{action.label}?",
            "opts": self.opts,
            "original": model,
            "consequences": action.consequences(model, request.POST),
            "hidden": {field: value for field, value in hidden.items() if value},
            "label": action.label,
        }
        return TemplateResponse(request, "models_app/confirm.html", context)


def _is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)
