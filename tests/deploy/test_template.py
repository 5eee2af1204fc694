"""The template as such: lint, what follows from the timeout, sizes, published versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tests.deploy.habits import of_type
from tests.deploy.stack import ROOT, presets, template, translated

SAM = Path(sys.executable).parent / "sam"


def test_sam_finds_nothing_to_mend() -> None:
    """`sam validate --lint` accepts the template."""
    result = subprocess.run(
        [SAM, "validate", "--lint", "--template", ROOT / "template.yaml"],
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "eu-central-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_timeout_has_its_row() -> None:
    """Each timeout that may be chosen has a row of what follows from it, and no other has."""
    document = template()
    allowed = document["Parameters"]["TimeoutSeconds"]["AllowedValues"]
    assert list(document["Mappings"]["Timeout"]) == allowed


@pytest.mark.parametrize("timeout", template()["Mappings"]["Timeout"])
def test_what_follows_from_the_timeout(timeout: str) -> None:
    """A retry waits for six timeouts and the batch; the alarm comes at three quarters of the time;
    the database does not end a session while an invocation may still need it."""
    document = template()
    row = document["Mappings"]["Timeout"][timeout]
    seconds = int(timeout)
    assert row == {
        "Visibility": 6 * seconds + document["Parameters"]["BatchWindowSeconds"]["MaxValue"],
        "NearTimeout": 750 * seconds,
        "IdleSession": 1000 * (seconds + 60),
    }


def test_whoever_waits_waits_longer() -> None:
    """CloudFormation outwaits the deploying function, which outwaits the migrating one."""
    functions = dict(of_type(template(), "AWS::Serverless::Function"))
    deploying = functions["DeployFunction"]["Timeout"]
    assert functions["MigrationFunction"]["Timeout"] < deploying
    for custom in ("Custom::Statement", "Custom::Migration"):
        for _, properties in of_type(template(), custom):
            assert deploying < properties["ServiceTimeout"]


def test_the_new_code_waits_for_its_tables() -> None:
    """The aggregating function is updated after the migration, never before."""
    resources = template()["Resources"]
    assert resources["AggregatorFunction"]["DependsOn"] == "Migration"
    assert resources["Migration"]["Properties"]["CodeVersion"] == {
        "Ref": "MigrationFunction.Version"
    }


def test_another_description_is_another_version() -> None:
    """CloudFormation replaces a version whose description changes: that is how a changed parameter
    reaches the alias."""
    version = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-central-1", "AWS::Lambda::Version")
    assert "/properties/Description" in version.schema["createOnlyProperties"]
    versions = of_type(translated(), "AWS::Lambda::Version")
    assert all("Fn::Sub" in version["Description"] for _, version in versions)


@pytest.mark.parametrize("function", ["AggregatorFunction", "MigrationFunction"])
def test_the_longest_description_is_short_enough(function: str) -> None:
    """Whatever parameters are given, Lambda takes the description: it is of 256 characters at most."""
    document = template()
    text, others = document["Resources"][function]["Properties"]["VersionDescription"]["Fn::Sub"]
    assert others.keys() == {"Id"}
    longest = {name: longest_value(one) for name, one in document["Parameters"].items()}
    longest["Id"] = longest["ExistingDatabaseResourceId"]
    filled = re.sub(r"\$\{(\w+)\}", lambda name: "x" * longest[name[1]], text)
    assert "$" not in filled
    assert len(filled) <= 256


def longest_value(parameter: dict[str, Any]) -> int:
    """The characters of a parameter's longest value."""
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if "MaxValue" in parameter:
        return len(str(parameter["MaxValue"]))
    return int(parameter.get("MaxLength", 1000))


def test_messages_and_schedules_call_the_live_version() -> None:
    """The queue and the sweep call the alias: the version that SnapStart and a roll-back are about."""
    resources = translated()["Resources"]
    alias = {"Ref": "AggregatorFunctionAliaslive"}
    assert resources["AggregatorFunctionUploads"]["Properties"]["FunctionName"] == alias
    assert resources["Sweep"]["Properties"]["Target"]["Arn"] == alias


def test_snapshots_and_a_large_disk_exclude_each_other() -> None:
    """A choice that Lambda would refuse half-way through a deployment is refused before it begins."""
    rule = template()["Rules"]["SnapStartNeedsTheSmallestDisk"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "SnapStart"}, "on"]}
    (assertion,) = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Equals": [{"Ref": "EphemeralStorageMb"}, "512"]}


def test_there_is_a_size_for_each_need() -> None:
    """samconfig.toml has the sizes that the documentation speaks of."""
    assert {"default", "small", "medium", "large"} == set(presets())


@pytest.mark.parametrize("size", presets())
def test_a_size_stays_within_the_limits(size: str) -> None:
    """Each size sets parameters that exist to values that they allow."""
    parameters = template()["Parameters"]
    for name, value in presets()[size].items():
        limits = parameters[name]
        assert value in map(str, limits.get("AllowedValues", [value]))
        assert re.search(limits.get("AllowedPattern", ""), value)
        if limits["Type"] == "Number" and "MinValue" in limits:
            assert limits["MinValue"] <= float(value) <= limits["MaxValue"]
