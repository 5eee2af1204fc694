"""Connectors are created by class name, including those of third parties."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from connectors import BaseAggConnector, DjangoAggConnector, DjangoMetadataConnector
from connectors.workflow.base import BaseMetadataConnector, BaseModelDataConnector
from connectors.workflow.registry import Registered

SETTINGS = {"metadata_connector": {"type": "DjangoMetadataConnector"}}


@pytest.mark.parametrize("name", ["DjangoAggConnector", "djangoaggconnector", "DJANGOAGGCONNECTOR"])
def test_the_name_of_a_connector_is_case_insensitive(name: str) -> None:
    """Connector types are found in upper and lower case."""
    connector = BaseAggConnector.create(name, SETTINGS)
    assert type(connector) is DjangoAggConnector
    assert connector.settings == SETTINGS


@pytest.mark.parametrize("name", ["", "Django", "object", "DjangoMetadataConnector", None])
def test_an_unknown_connector_is_refused_with_the_known_ones(name: Any) -> None:
    """An unknown type is refused, and the message lists the known types."""
    with pytest.raises(ValueError, match=r"unknown aggregation connector .*DjangoAggConnector"):
        BaseAggConnector.create(name, SETTINGS)


@pytest.mark.parametrize("settings", [None, {}, {"metadata_connector": {}}])
def test_a_missing_metadata_connector_is_named(settings: Any) -> None:
    """A missing metadata_connector is refused with the expected setting."""
    with pytest.raises(ValueError, match=r"metadata_connector is not specified .*DjangoMetadata"):
        BaseAggConnector.create("DjangoAggConnector", settings)
    with pytest.raises(ValueError, match="metadata_connector is not specified"):
        DjangoAggConnector(settings or {})


@pytest.mark.parametrize(
    ("part", "known"),
    [
        ("metadata_connector", "DjangoMetadataConnector"),
        ("model_data_connector", "DjangoModelDataConnector"),
    ],
)
def test_an_unknown_part_of_a_connector_is_refused_by_name(part: str, known: str) -> None:
    """An unknown type of a metadata or model-data connector is refused with the known types."""
    with pytest.raises(ValueError, match=f"'Nope'; known are .*{known}"):
        DjangoAggConnector({**SETTINGS, part: {"type": "Nope"}})


def test_the_parts_of_a_connector_are_case_insensitive_and_have_settings() -> None:
    """Parts are found in any case and get their own settings."""
    chosen = {
        "metadata_connector": {
            "type": "djangometadataconnector",
            "settings": {"request_id": "request-1"},
        },
        "model_data_connector": {"type": "DJANGOMODELDATACONNECTOR"},
    }
    connector = DjangoAggConnector(chosen)
    assert type(connector.metadata) is DjangoMetadataConnector
    assert connector.metadata.settings == {"request_id": "request-1"}


class OtherMetadataConnector(BaseMetadataConnector):
    """A connector of a third party, independent of the Django one."""


class OtherModelDataConnector(BaseModelDataConnector):
    """A connector of a third party, independent of the Django one."""


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("metadata_connector", "OtherMetadataConnector"),
        ("model_data_connector", "OtherModelDataConnector"),
    ],
)
def test_an_incompatible_part_is_refused_when_the_connector_is_created(
    part: str, kind: str
) -> None:
    """A part without the required methods is refused by name when the connector is created."""
    with pytest.raises(ValueError, match=f"'{kind}'; known are Django"):
        DjangoAggConnector({**SETTINGS, part: {"type": kind}})


class Family(Registered):
    """A separate family, so that those of the project stay unchanged."""

    family = "test family"

    def __init__(self, settings: Any) -> None:
        self.settings = settings


class Member(Family):
    pass


class Grandchild(Member):
    pass


def test_a_subclass_of_a_member_is_a_member() -> None:
    """Defining a subclass at any depth registers it; the base class is not registered."""
    assert Family.known() == ["Grandchild", "Member"]
    assert Family._member("grandchild") is Grandchild
    assert Member.known() == ["Grandchild", "Member"]
    assert Grandchild.known() == ["Grandchild"]
    with pytest.raises(ValueError, match="unknown test family 'Member'; known are Grandchild"):
        Grandchild._member("Member")
    with pytest.raises(ValueError, match="unknown test family 'Family'"):
        Family._member("Family")


def test_families_are_separate() -> None:
    """A metadata connector is not registered as a model-data connector."""
    assert "DjangoMetadataConnector" in BaseMetadataConnector.known()
    assert "DjangoMetadataConnector" not in BaseModelDataConnector.known()
    assert "Member" not in BaseAggConnector.known()


THIRD_PARTY = """
import django
django.setup()
from connectors import BaseAggConnector, DjangoAggConnector

class TheirConnector(DjangoAggConnector):
    pass

settings = {"metadata_connector": {"type": "DjangoMetadataConnector"}}
print(type(BaseAggConnector.create("theirconnector", settings)).__name__)
try:
    BaseAggConnector.create("nope")
except ValueError as error:
    print(error)
"""


def test_a_third_party_registers_by_subclassing() -> None:
    """A subclass of a third party is created by name in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", THIRD_PARTY], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "TheirConnector",
        "unknown aggregation connector 'nope'; known are DjangoAggConnector, TheirConnector",
    ]
