"""Clients and their memberships in models."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from models_app.admin.base import PagedAdmin, ProtectedAdmin
from models_app.models import Client, FederatedModel, mark_credentials


@admin.register(Client)
class ClientAdmin(ProtectedAdmin):
    """Clients."""

    list_display = ("__str__", "uuid", "paused", "created_on")
    list_filter = ("paused",)
    search_fields = ("name", "uuid")
    readonly_fields = ("uuid", "created_on")
    ordering = ("name", "uuid")
    protected_by = ("model_updates", "aggregate_scores")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Users who add clients to a model have to find them.
        changes_models = request.user.has_perm("models_app.change_federatedmodel")
        return changes_models or super().has_view_permission(request, obj)


Membership = FederatedModel.clients.through
Membership._meta.verbose_name = "membership"
Membership._meta.verbose_name_plural = "memberships"


@admin.register(Membership)
class MembershipAdmin(PagedAdmin):
    """Memberships: users who may change federated models may add and remove them."""

    list_display = ("client", "federatedmodel")
    list_filter = ("federatedmodel",)
    list_select_related = ("client", "federatedmodel")
    search_fields = ("client__name", "client__uuid")
    autocomplete_fields = ("client",)
    ordering = ("-id",)

    def _may_change_models(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_app.change_federatedmodel")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._may_change_models(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may_change_models(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may_change_models(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may_change_models(request)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        mark_credentials([obj.client_id])

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        mark_credentials([obj.client_id])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        client_ids = list(queryset.values_list("client_id", flat=True))
        super().delete_queryset(request, queryset)
        mark_credentials(client_ids)
