"""Connectors are made by the names of their classes, those of third parties included."""

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
def test_a_connector_is_known_by_its_name_in_any_case(name: str) -> None:
    """Upper and lower case make no difference to a type."""
    connector = BaseAggConnector.create(name, SETTINGS)
    assert type(connector) is DjangoAggConnector
    assert connector.settings == SETTINGS


@pytest.mark.parametrize("name", ["", "Django", "object", "DjangoMetadataConnector", None])
def test_an_unknown_connector_is_refused_with_the_known(name: Any) -> None:
    """A type there is not is refused, and the message lists those there are."""
    with pytest.raises(ValueError, match=r"unknown aggregation connector .*DjangoAggConnector"):
        BaseAggConnector.create(name, SETTINGS)


@pytest.mark.parametrize("settings", [None, {}, {"metadata_connector": {}}])
def test_a_missing_metadata_connector_is_named(settings: Any) -> None:
    """Without metadata_connector there is no connector, and the message shows what is expected."""
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
def test_the_parts_of_a_connector_are_refused_by_name(part: str, known: str) -> None:
    """An unknown type of metadata or model data connector is refused with those there are."""
    with pytest.raises(ValueError, match=f"'Nope'; known are .*{known}"):
        DjangoAggConnector({**SETTINGS, part: {"type": "Nope"}})


def test_the_parts_of_a_connector_are_known_in_any_case_and_have_settings() -> None:
    """The parts are chosen by name, too, and given their own settings."""
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
    """A third party's, that shares nothing with Django's."""


class OtherModelDataConnector(BaseModelDataConnector):
    """A third party's, that shares nothing with Django's."""


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("metadata_connector", "OtherMetadataConnector"),
        ("model_data_connector", "OtherModelDataConnector"),
    ],
)
def test_a_part_that_the_connector_cannot_use_is_refused_when_it_is_made(
    part: str, kind: str
) -> None:
    """What lacks all that is asked of a part is refused by its name, not by an attribute in a round."""
    with pytest.raises(ValueError, match=f"'{kind}'; known are Django"):
        DjangoAggConnector({**SETTINGS, part: {"type": kind}})


class Family(Registered):
    """A family of its own, so that the project's is left as it is."""

    family = "test family"

    def __init__(self, settings: Any) -> None:
        self.settings = settings


class Member(Family):
    pass


class Grandchild(Member):
    pass


def test_a_subclass_of_a_member_is_a_member() -> None:
    """Defining a class is all it takes to be known, at any depth; the base itself is not a member."""
    assert Family.known() == ["Grandchild", "Member"]
    assert Family._member("grandchild") is Grandchild
    assert Member.known() == ["Grandchild", "Member"]
    assert Grandchild.known() == ["Grandchild"]
    with pytest.raises(ValueError, match="unknown test family 'Member'; known are Grandchild"):
        Grandchild._member("Member")
    with pytest.raises(ValueError, match="unknown test family 'Family'"):
        Family._member("Family")


def test_families_do_not_know_each_other() -> None:
    """A metadata connector is no model data connector."""
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
    """In a process that has imported nothing but the package, a subclass is made by its name."""
    done = subprocess.run(
        [sys.executable, "-c", THIRD_PARTY], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "TheirConnector",
        "unknown aggregation connector 'nope'; known are DjangoAggConnector, TheirConnector",
    ]
