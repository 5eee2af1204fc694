"""The tables: clients, federated models, updates, rounds and the lineage of aggregates.

The database enforces the protocol itself, on PostgreSQL and SQLite alike: one running round per model, one
aggregate per model and number, one update per stored object. Deleting never cascades into the lineage.
"""

from models_app.models.aggregate import ModelAggregate
from models_app.models.artifact import ModelArtifact
from models_app.models.client import Client, mark_credentials, next_version
from models_app.models.events import pause_changes, publishes_events
from models_app.models.federated_model import FederatedModel
from models_app.models.round import AggregationRound
from models_app.models.score import ClientAggregateScore
from models_app.models.update import ModelUpdate

__all__ = [
    "AggregationRound",
    "Client",
    "ClientAggregateScore",
    "FederatedModel",
    "ModelAggregate",
    "ModelArtifact",
    "ModelUpdate",
    "mark_credentials",
    "next_version",
    "pause_changes",
    "publishes_events",
]
