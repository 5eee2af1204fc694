"""Federated models: the overview and the clients of each, its actions and its settings."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.safestring import SafeString

from models_app.admin.access import is_staff, sees_all_models, visible_models
from models_app.admin.acting import ActingAdmin
from models_app.admin.base import ProtectedAdmin
from models_app.admin.links import badge, moment, url_of
from models_app.admin.model_actions import ACTIONS
from models_app.admin.model_pages import clients_context, overview_context
from models_app.admin.settings import FederatedModelForm, changes_in_words, sections
from models_app.admin.tabs import model_head
from models_app.defaults import NEW_MODEL
from models_app.models import FederatedModel
from models_app.scores import DECIDES_SCORES, rescore


@admin.register(FederatedModel)
class FederatedModelAdmin(ProtectedAdmin, ActingAdmin):
    """Federated models.

    Users who may view or change federated models see all of them; other staff see those they develop.
    Only users who may change them see the buttons. Whether a model is paused is changed by the buttons
    alone: a form that was opened before a pause and saved after it would resume the model.
    """

    form = FederatedModelForm
    actions_by_name = ACTIONS
    change_form_template = "models_app/settings.html"
    list_display = ("name", "state", "failed_rounds", "aggregator", "requirement", "modified")
    search_fields = ("name",)
    search_help_text = "Name of a model"
    raw_id_fields = ("current_artifact",)
    readonly_fields = (
        "allow_aggregation",
        "pause_reason",
        "failed_rounds",
        "created",
        "modified",
    )
    protected_by = ("model_updates", "aggregates", "rounds", "artifacts")

    @admin.display(description="state")
    def state(self, obj: FederatedModel) -> SafeString:
        """Return whether the model is paused."""
        return badge("Active", "good") if obj.allow_aggregation else badge("Paused", "bad")

    @admin.display(description="created")
    def created(self, obj: FederatedModel) -> SafeString:
        """Return when the model was created."""
        return moment(obj.created_on)

    @admin.display(description="last modified")
    def modified(self, obj: FederatedModel) -> SafeString:
        """Return when the settings were changed last."""
        return moment(obj.last_modified)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Another kind would change the meaning of updates that clients have sent.
        return (*self.readonly_fields, *(("update_kind",) if obj else ()))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return sections(self.get_fields(request, obj))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {**NEW_MODEL, **super().get_changeform_initial_data(request)}

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None or sees_all_models(request):
            return is_staff(request)
        return is_staff(request) and obj.developer_id == request.user.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[FederatedModel]:
        everything: QuerySet[FederatedModel] = super().get_queryset(request)
        return everything.filter(pk__in=visible_models(request).values("pk"))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Any]:
        parent: type[Any] = super().get_changelist(request, **kwargs)

        class LinksToOverviews(parent):  # type: ignore[misc]
            def url_for_result(self, result: FederatedModel) -> str:
                return url_of(result)

        return LinksToOverviews

    def get_urls(self) -> list[Any]:
        pages = [
            path(
                f"<int:pk>/{place}",
                self.admin_site.admin_view(view),
                name=f"models_app_federatedmodel_{name}",
            )
            for name, place, view in (
                ("overview", "", self.overview),
                ("clients", "clients/", self.clients),
            )
        ]
        return [*pages, *super().get_urls()]

    def overview(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the state of a model."""
        model = get_object_or_404(self.get_queryset(request), pk=pk)
        context = overview_context(model, with_tensors="tensors" in request.GET)
        return self._page(request, model, "Overview", context)

    def clients(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the clients of a model, a page of them."""
        model = get_object_or_404(self.get_queryset(request), pk=pk)
        return self._page(request, model, "Clients", clients_context(model, request.GET.dict()))

    def _page(
        self, request: HttpRequest, model: FederatedModel, tab: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        context |= {
            **self.admin_site.each_context(request),
            **model_head(request, model, tab),
            "opts": self.opts,
        }
        return TemplateResponse(request, f"models_app/{tab.lower()}.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        model = self.get_object(request, object_id)
        context = dict(extra_context or {})
        if model is not None and self.has_view_permission(request, model):
            context |= model_head(request, model, "Settings")
        answer: HttpResponse = super().change_view(request, object_id, form_url, context)
        return answer

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
