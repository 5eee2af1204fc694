"""Adapters between the aggregation core and its surroundings: Django, storage, events.

Exported names are imported when they are first accessed: Django imports this package, as the home of
management commands, before its models can be.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.workflow.aggregator import DjangoAggConnector
    from connectors.workflow.base import (
        BaseAggConnector,
        BaseMetadataConnector,
        BaseModelDataConnector,
    )
    from connectors.workflow.metadata import DjangoMetadataConnector
    from connectors.workflow.model_data import DjangoModelDataConnector

__all__ = [
    "BaseAggConnector",
    "BaseMetadataConnector",
    "BaseModelDataConnector",
    "DjangoAggConnector",
    "DjangoMetadataConnector",
    "DjangoModelDataConnector",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It names all of them, and importing it makes the connectors known to `BaseAggConnector.create`.
    return getattr(import_module("connectors.workflow.aggregator"), name)
