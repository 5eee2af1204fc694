"""The templates: lint, nested stacks, what follows from the timeout, sizes, published versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dj_database_url
import pytest

from tests.deploy.practices import of_type
from tests.deploy.stack import ROOT, nested, presets, template, translated

SAM = Path(sys.executable).parent / "sam"

#: Outputs of nested stacks for the procedures of docs/deploy.md.
USED_BY_OPERATORS = {("Database", "InstanceId")}


def test_the_templates_are_valid() -> None:
    """`sam validate --lint` accepts the application, and cfn-lint the nested templates."""
    from cfnlint import lint_file  # Takes a second to import.

    for file in nested().values():
        assert lint_file(ROOT / file) == []
    for file in ("template.yaml", "mask_keeper/template.yaml"):
        result = subprocess.run(
            [SAM, "validate", "--lint", "--template", ROOT / file],
            env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "eu-central-1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_nested_stacks_are_given_their_parameters() -> None:
    """Each nested stack is given every parameter without a default, and no unknown parameter."""
    for name, file in nested().items():
        given = template()["Resources"][name]["Properties"]["Parameters"].keys()
        parameters = template(file)["Parameters"]
        assert given <= parameters.keys()
        assert {each for each in parameters if "Default" not in parameters[each]} <= given


def test_outputs_of_nested_stacks_exist() -> None:
    """The application refers to outputs that the nested stacks have, and uses each of them."""
    used = set(re.findall(r"(\w+)\.Outputs\.(\w+)", (ROOT / "template.yaml").read_text()))
    outputs = {(n, one) for n, file in nested().items() for one in template(file)["Outputs"]}
    assert used <= outputs
    assert outputs - used <= USED_BY_OPERATORS


def test_every_timeout_has_its_row() -> None:
    """Each timeout that can be chosen has a row of derived values."""
    document = template()
    allowed = document["Parameters"]["TimeoutSeconds"]["AllowedValues"]
    assert list(document["Mappings"]["Timeout"]) == allowed


@pytest.mark.parametrize("timeout", template()["Mappings"]["Timeout"])
def test_what_follows_from_the_timeout(timeout: str) -> None:
    """A retry waits six timeouts and the batch window, the alarm fires at three quarters of the timeout,
    and the database closes no session that an invocation may still need."""
    document = template()
    row = document["Mappings"]["Timeout"][timeout]
    seconds = int(timeout)
    assert row == {
        "Visibility": 6 * seconds + document["Parameters"]["BatchWindowSeconds"]["MaxValue"],
        "LongRound": 750 * seconds,
        "IdleSession": 1000 * (seconds + 60),
    }


def test_timeouts_of_a_deployment_are_ordered() -> None:
    """CloudFormation waits longer than the deploying function, and that longer than the migrating one."""
    functions = dict(of_type(template(), "AWS::Serverless::Function"))
    deploying = functions["DeployFunction"]["Timeout"]
    assert functions["MigrationFunction"]["Timeout"] < deploying
    for custom in ("Custom::Statement", "Custom::Migration"):
        for _, properties in of_type(template(), custom):
            assert deploying < properties["ServiceTimeout"]


def test_new_code_waits_for_the_migration() -> None:
    """The aggregating function is updated after the migration, never before."""
    resources = template()["Resources"]
    assert resources["AggregatorFunction"]["DependsOn"] == "Migration"
    assert resources["Migration"]["Properties"]["CodeVersion"] == {
        "Ref": "MigrationFunction.Version"
    }


def test_a_changed_description_is_a_new_version() -> None:
    """CloudFormation replaces a version when its description changes, so a changed parameter reaches the
    alias."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    version = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-central-1", "AWS::Lambda::Version")
    assert "/properties/Description" in version.schema["createOnlyProperties"]
    versions = of_type(translated(), "AWS::Lambda::Version")
    assert all("Fn::Sub" in version["Description"] for _, version in versions)


def test_the_api_answers_while_the_database_wakes() -> None:
    """It gives up to connect before its own time is up, and before API Gateway does after 30 seconds."""
    function = template()["Resources"]["ApiFunction"]["Properties"]
    url = function["Environment"]["Variables"]["DATABASE_URL"]["Fn::Sub"][0]
    plain = url.replace("${", "").replace("}", "").replace("Port", "5432")
    seconds = dj_database_url.parse(plain)["OPTIONS"]["connect_timeout"]
    assert int(seconds) + 10 < function["Timeout"] < 30


@pytest.mark.parametrize("function", ["AggregatorFunction", "MigrationFunction"])
def test_the_longest_description_is_short_enough(function: str) -> None:
    """With any parameters, the description fits into the 256 characters that Lambda accepts."""
    document = template()
    text, others = document["Resources"][function]["Properties"]["VersionDescription"]["Fn::Sub"]
    assert others.keys() == {"Id"}
    longest = {name: longest_value(one) for name, one in document["Parameters"].items()}
    longest["Id"] = longest["ExistingDatabaseResourceId"]
    filled = re.sub(r"\$\{(\w+)\}", lambda name: "x" * longest[name[1]], text)
    assert "$" not in filled
    assert len(filled) <= 256


def longest_value(parameter: dict[str, Any]) -> int:
    """Return the length of the longest value of a parameter."""
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if "MaxValue" in parameter:
        return len(str(parameter["MaxValue"]))
    return int(parameter.get("MaxLength", 1000))


def test_messages_and_schedules_invoke_the_live_version() -> None:
    """The queue and the sweep invoke the alias, on which SnapStart and rollbacks depend."""
    resources = translated()["Resources"]
    alias = {"Ref": "AggregatorFunctionAliaslive"}
    assert resources["AggregatorFunctionUploads"]["Properties"]["FunctionName"] == alias
    assert resources["Sweep"]["Properties"]["Target"]["Arn"] == alias


def test_there_is_a_size_for_each_need() -> None:
    """samconfig.toml has the sizes that the documentation describes."""
    assert {"default", "small", "medium", "large"} == set(presets())


@pytest.mark.parametrize("size", presets())
def test_a_size_stays_within_the_limits(size: str) -> None:
    """Each size sets existing parameters to allowed values."""
    parameters = template()["Parameters"]
    for name, value in presets()[size].items():
        limits = parameters[name]
        assert value in map(str, limits.get("AllowedValues", [value]))
        assert re.search(limits.get("AllowedPattern", ""), value)
        if limits["Type"] == "Number" and "MinValue" in limits:
            assert limits["MinValue"] <= float(value) <= limits["MaxValue"]


def test_repeated_uploads_are_bounded() -> None:
    """Of the versions that uploads with the same key replace, five are kept for more than a day."""
    ((_, bucket),) = of_type(template(), "AWS::S3::Bucket")
    rules = {rule.get("Prefix"): rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    for prefix in ("updates/", "scores/"):
        expiration = rules[prefix]["NoncurrentVersionExpiration"]
        assert expiration == {"NewerNoncurrentVersions": 5, "NoncurrentDays": 1}
