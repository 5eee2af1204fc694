"""Adapters between the aggregation core and the world: Django, storage, events."""

from connectors.aggregator import DjangoAggConnector
from connectors.base import BaseAggConnector, BaseMetadataConnector, BaseModelDataConnector
from connectors.metadata import DjangoMetadataConnector
from connectors.model_data import DjangoModelDataConnector

__all__ = [
    "BaseAggConnector",
    "BaseMetadataConnector",
    "BaseModelDataConnector",
    "DjangoAggConnector",
    "DjangoMetadataConnector",
    "DjangoModelDataConnector",
]
