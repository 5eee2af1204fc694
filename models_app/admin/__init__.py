"""The models in Django's admin."""

from django.contrib import admin

from models_app.admin.clients import ClientAdmin, MembershipAdmin
from models_app.admin.federated_model import FederatedModelAdmin
from models_app.admin.records import (
    AggregationRoundAdmin,
    ClientAggregateScoreAdmin,
    ModelAggregateAdmin,
    ModelArtifactAdmin,
    ModelUpdateAdmin,
)

__all__ = [
    "AggregationRoundAdmin",
    "ClientAdmin",
    "ClientAggregateScoreAdmin",
    "FederatedModelAdmin",
    "MembershipAdmin",
    "ModelAggregateAdmin",
    "ModelArtifactAdmin",
    "ModelUpdateAdmin",
]

admin.site.site_header = admin.site.site_title = "Federated aggregator"
