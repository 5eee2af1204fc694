"""Parameters that contradict each other are refused before anything is created."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.deploy.rules import refused_values, violations
from tests.deploy.stack import presets, template

TEMPLATE = template()
PARAMETERS = TEMPLATE["Parameters"]

DATABASE = {
    "ExistingDatabaseHost": "db.example",
    "ExistingDatabaseResourceId": "db-ABC",
    "ExistingDatabaseSecurityGroup": "sg-1",
}
NETWORK = {"ExistingVpc": "vpc-1", "ExistingSubnets": "subnet-1,subnet-2"}

#: Parameters that are consistent, a change that contradicts them, and what the message names.
CONTRADICTIONS: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({}, {"EphemeralStorageMb": "1024"}, "SnapStart"),
    ({"EphemeralStorageMb": "1024", "SnapStart": "off"}, {"SnapStart": "on"}, "EphemeralStorageMb"),
    ({"EndpointZones": "0"}, {"EventBus": "events"}, "EndpointZones"),
    ({"EndpointZones": "0"}, {"Tracing": "on"}, "EndpointZones"),
    ({"EndpointZones": "0"}, {"MaxFunctions": "2"}, "EndpointZones"),
    ({"EndpointZones": "0"}, {"MaskKeeper": "210987654321/keeper"}, "EndpointZones"),
    ({"MaxConcurrency": "50"}, {"ReservedConcurrency": "20"}, "MaxConcurrency"),
    ({"ReservedConcurrency": "5"}, {"MaxConcurrency": "10"}, "ReservedConcurrency"),
    ({}, {"DatabaseMinCapacity": "4"}, "DatabaseMaxCapacity"),
    ({"MaxConcurrency": "200"}, {"DatabaseMaxCapacity": "1"}, "connections"),
    ({"DatabaseMaxCapacity": "4"}, {"MaxConcurrency": "1000"}, "connections"),
    ({}, {"DatabaseEngineVersion": "16.2"}, "16.3"),
    ({}, {"DatabaseUser": "aggregator_owner"}, "two users"),
    ({}, {"DatabaseUser": "postgres"}, "DatabaseUser"),
    ({}, {"DatabaseOwner": "rdsadmin"}, "DatabaseOwner"),
    ({}, {"DatabaseProxy": "on"}, "DatabaseMinCapacity"),
    (DATABASE | NETWORK, {"DatabaseProxy": "on", "DatabaseMinCapacity": "1"}, "existing proxy"),
    ({}, {"ExistingVpc": "vpc-1"}, "ExistingSubnets"),
    ({}, {"ExistingSubnets": "subnet-1,subnet-2"}, "ExistingVpc"),
    ({}, {"ExistingRouteTables": "rtb-1"}, "ExistingVpc"),
    ({}, {"ExistingDatabasePort": "6432"}, "ExistingDatabaseHost"),
    (DATABASE | NETWORK, {"ExistingVpc": "", "ExistingSubnets": ""}, "ExistingVpc"),
    *((DATABASE | NETWORK, {name: ""}, name) for name in list(DATABASE)[1:]),
    *(({}, {name: DATABASE[name]}, "ExistingDatabaseHost") for name in list(DATABASE)[1:]),
]


def assert_accepted(parameters: dict[str, str]) -> None:
    assert refused_values(TEMPLATE, parameters) == []
    assert violations(TEMPLATE, parameters) == []


@pytest.mark.parametrize(("consistent", "change", "named"), CONTRADICTIONS)
def test_a_contradiction_is_refused(
    consistent: dict[str, str], change: dict[str, str], named: str
) -> None:
    """Values that are allowed one by one, but not together, are refused with a message."""
    assert_accepted(consistent)
    assert refused_values(TEMPLATE, consistent | change) == []
    found = violations(TEMPLATE, consistent | change)
    assert any(named in each for each in found), found


def test_every_assertion_is_tested() -> None:
    """Each assertion of the section Rules fails for a contradiction above."""
    found = {each for good, bad, _ in CONTRADICTIONS for each in violations(TEMPLATE, good | bad)}
    assert found == {
        one["AssertDescription"]
        for rule in TEMPLATE["Rules"].values()
        for one in rule["Assertions"]
    }


@pytest.mark.parametrize("parameters", [*presets().values(), DATABASE | NETWORK, NETWORK])
def test_consistent_parameters_are_accepted(parameters: dict[str, str]) -> None:
    """Each size, and an existing database or network, violates no rule."""
    assert_accepted(parameters)


#: Connections that a database of this many capacity units accepts: "Maximum connections for Aurora
#: Serverless v2" in the Aurora User Guide; 2 units are half of 4.
CONNECTIONS = {"1": 189, "2": 411, "4": 823, "8": 1669, "16": 3360}


def is_ordered(low: str, high: str) -> bool:
    return float(low) <= float(high)


ORDERS: list[tuple[str, str, Any]] = [
    (
        "MaxConcurrency",
        "ReservedConcurrency",
        lambda queue, reserved: reserved == "0" or is_ordered(queue, reserved),
    ),
    ("DatabaseMinCapacity", "DatabaseMaxCapacity", is_ordered),
    (
        "MaxConcurrency",
        "DatabaseMaxCapacity",
        lambda queue, units: int(queue) <= CONNECTIONS.get(units, 2000),
    ),
]


@pytest.mark.parametrize(("first", "second", "is_consistent"), ORDERS)
def test_all_pairs_of_numbers_are_compared(first: str, second: str, is_consistent: Any) -> None:
    """For all allowed values of two parameters, exactly the contradictory pairs are refused."""
    room = {"DatabaseMaxCapacity": "128"} if "ReservedConcurrency" in (first, second) else {}
    for low, high in product(
        PARAMETERS[first]["AllowedValues"], PARAMETERS[second]["AllowedValues"]
    ):
        pair = {first: str(low), second: str(high)}
        assert (violations(TEMPLATE, room | pair) == []) is is_consistent(str(low), str(high)), pair
