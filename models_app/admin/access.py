"""Which federated models, and so which records, a user of the console sees."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import HttpRequest

from models_app.models import FederatedModel


def is_staff(request: HttpRequest) -> bool:
    """Return whether the user may open the console."""
    return bool(request.user.is_active and request.user.is_staff)


def sees_all_models(request: HttpRequest) -> bool:
    """Return whether the user may view all federated models."""
    may = request.user.has_perm
    return may("models_app.view_federatedmodel") or may("models_app.change_federatedmodel")


def may_change_models(request: HttpRequest) -> bool:
    """Return whether the user may act on federated models and their clients."""
    return request.user.has_perm("models_app.change_federatedmodel")


def visible_models(request: HttpRequest) -> QuerySet[FederatedModel]:
    """Return the models that the user sees: all, or those that name the user as developer."""
    everything = FederatedModel.objects.all()
    if sees_all_models(request):
        return everything
    return everything.filter(developer_id=request.user.pk)
