"""The pages of the console, as classes of Django's admin."""

from models_app.admin.clients import ClientAdmin, MembershipAdmin
from models_app.admin.federated_model import FederatedModelAdmin
from models_app.admin.lineage import (
    ClientAggregateScoreAdmin,
    ModelAggregateAdmin,
    ModelArtifactAdmin,
)
from models_app.admin.rounds import AggregationRoundAdmin
from models_app.admin.updates import ModelUpdateAdmin
from models_app.admin.users import GroupAdmin, UserAdmin

__all__ = [
    "AggregationRoundAdmin",
    "ClientAdmin",
    "ClientAggregateScoreAdmin",
    "FederatedModelAdmin",
    "GroupAdmin",
    "MembershipAdmin",
    "ModelAggregateAdmin",
    "ModelArtifactAdmin",
    "ModelUpdateAdmin",
    "UserAdmin",
]
