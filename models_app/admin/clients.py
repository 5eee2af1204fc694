"""Clients and their memberships in models."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app.admin.access import (
    is_staff,
    may_change_models,
    sees_all_models,
    visible_models,
)
from models_app.admin.acting import ActingAdmin
from models_app.admin.base import PagedAdmin, ProtectedAdmin, VisibleModelFilter
from models_app.admin.client_actions import CLIENT_ACTIONS
from models_app.admin.links import NOTHING, client_badge, link, moment, number, status_badge
from models_app.admin.pages import Button, PageAdmin, RecordPage, Table
from models_app.models import Client, FederatedModel, ModelUpdate, mark_credentials
from models_app.overview.clients import ROWS, clients_matching

#: Models of a client that its page lists.
MAX_MODELS = 25


@admin.register(Client)
class ClientAdmin(ProtectedAdmin, ActingAdmin, PageAdmin):
    """Clients, each with its updates and why they were rejected."""

    actions_by_name = CLIENT_ACTIONS
    list_display = ("__str__", "uuid", "state", "created")
    list_filter = ("paused",)
    search_fields = ("name",)
    search_help_text = "Name or id of a client"
    fields = ("name",)
    ordering = ("name", "uuid")
    protected_by = ("model_updates", "aggregate_scores")

    @admin.display(description="state")
    def state(self, obj: Client) -> SafeString:
        """Return whether the client is active, paused, or invited and not yet enrolled."""
        return client_badge(obj.state)

    @admin.display(description="created")
    def created(self, obj: Client) -> SafeString:
        """Return when the client was created."""
        return moment(obj.created_on)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_staff(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Client]:
        rows: QuerySet[Client] = super().get_queryset(request)
        if sees_all_models(request) or super().has_view_permission(request):
            return rows
        members = FederatedModel.clients.through.objects.filter(
            federatedmodel__in=visible_models(request)
        )
        return rows.filter(pk__in=members.values("client"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if term:
            queryset = queryset.filter(pk__in=clients_matching(term).values("pk"))
        return queryset, False

    def record_page(self, request: HttpRequest, obj: Client) -> RecordPage:
        updates = obj.model_updates.filter(federated_model__in=visible_models(request))
        counts = updates.aggregate(
            used=Count("pk", filter=Q(status=ModelUpdate.Status.COMPLETE)),
            rejected=Count("pk", filter=Q(status=ModelUpdate.Status.INVALID)),
            seen=Max("uploaded_on"),
        )
        latest = list(
            updates.select_related("federated_model", "round", "applied_aggregate")
            .defer("round__checkpoint", "round__workers", "round__config_snapshot")
            .order_by("-uploaded_on", "-pk")[:ROWS]
        )
        models = obj.federated_models.filter(pk__in=visible_models(request).values("pk"))
        models = models.order_by("name")[:MAX_MODELS]
        used = next((each for each in latest if each.norm is not None), None)
        rejected = next((each for each in latest if each.rejection_reason), None)
        return RecordPage(
            title=str(obj),
            parents=[link(model) for model in models],
            badge=self.state(obj),
            buttons=_buttons(request, obj),
            facts=[
                ("Last seen", moment(counts["seen"])),
                ("Updates used", counts["used"]),
                ("Updates rejected", counts["rejected"]),
                ("Last rejected", moment(rejected.uploaded_on) if rejected else NOTHING),
                ("Norm, latest", number(used.norm if used else None)),
                ("Contribution, latest", number(used.cosine if used else None)),
                ("Access", _access(obj)),
                ("Created", moment(obj.created_on)),
                ("Id", format_html("<code>{}</code>", obj.pk)),
            ],
            tables=[_latest_updates(obj, latest)],
        )


def _access(client: Client) -> str:
    """Return how a client is authenticated by the API."""
    if client.secret_hash:
        return "enrolled with the API"
    return "invited to the API" if client.invite_hash else "by AWS credentials or signed forms"


def _latest_updates(client: Client, latest: list[ModelUpdate]) -> Table:
    url = reverse("admin:models_app_modelupdate_changelist")
    return Table(
        heading="Latest updates",
        heads=["Update", "Uploaded", "Status", "Reason", "Model", "Round", "Norm", "Contribution"],
        rows=[
            [
                link(each),
                moment(each.uploaded_on),
                status_badge(each),
                each.rejection_reason or NOTHING,
                link(each.federated_model),
                link(each.round),
                number(each.norm),
                number(each.cosine),
            ]
            for each in latest
        ],
        empty="It has sent nothing yet.",
        more=format_html('<a href="{}?q={}">All updates of this client</a>', url, client.pk),
    )


def _buttons(request: HttpRequest, client: Client) -> list[Button]:
    if not may_change_models(request):
        return []
    names = [("resume_client", "Resume")] if client.paused else [("pause_client", "Pause")]
    names.append(("rename_client", "Rename"))
    if client.secret_hash or client.invite_hash:
        names.append(("revoke_client", "Revoke"))
    page = "admin:models_app_client_act"
    return [
        Button(
            text=text,
            url=reverse(page, args=[client.pk, name]),
            is_immediate=not CLIENT_ACTIONS[name].title,
        )
        for name, text in names
    ]


Membership = FederatedModel.clients.through
Membership._meta.verbose_name = "membership"
Membership._meta.verbose_name_plural = "memberships"


@admin.register(Membership)
class MembershipAdmin(PagedAdmin):
    """Memberships, which users who may change federated models may end; an action adds clients."""

    tab, model_path = "Clients", "federatedmodel"
    list_display = ("client", "model_link")
    list_filter = (("federatedmodel", VisibleModelFilter),)
    list_select_related = ("client", "federatedmodel")
    search_fields = ("client__name", "client__uuid")
    search_help_text = "Name or id of a client"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            queryset = queryset.filter(client__in=clients_matching(term).values("pk"))
        return queryset, False

    @admin.display(description="federated model")
    def model_link(self, obj: Any) -> SafeString:
        """Return a link to the federated model."""
        return link(obj.federatedmodel)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_change_models(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_change_models(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_change_models(request)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        mark_credentials([obj.client_id])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        client_ids = list(queryset.values_list("client_id", flat=True))
        super().delete_queryset(request, queryset)
        mark_credentials(client_ids)
