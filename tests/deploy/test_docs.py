"""docs/deploy.md agrees with the templates, with AWS, and with the commands of operators."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import yaml
from botocore import xform_name
from samcli.yamlhelper import yaml_parse

from tests.deploy.practices import of_type
from tests.deploy.stack import ROOT, Stack, nested, presets, template

SESSION = botocore.session.get_session()
TEXT = (ROOT / "docs" / "deploy.md").read_text()

OBSERVABILITY = template("infra/observability.yaml")

#: Files that the reader or the function writes.
NOT_EVENTS = {"local-variables.json", "latest.json", "policy.json", "schedule.json"}


@pytest.mark.parametrize("alarm", OBSERVABILITY["Mappings"]["Alarm"])
def test_each_alarm_is_explained(alarm: str) -> None:
    """The description of an alarm names a section of the page."""
    description = OBSERVABILITY["Mappings"]["Alarm"][alarm]["Description"]
    (section,) = re.findall(r'See "(.+)" in docs/deploy.md', description)
    assert f"\n### {section}\n" in TEXT


def test_what_the_documentation_names_exists() -> None:
    """Each output, size, event, resource and policy that the page uses exists."""
    assert set(re.findall(r"\$\(output (\w+)\)", TEXT)) <= template()["Outputs"].keys()
    for output, stack in re.findall(r"\$\(output (\w+) \$\(resource (\w+)\)\)", TEXT):
        assert output in template(nested()[stack])["Outputs"]
    assert set(re.findall(r"--config-env (\w+)", TEXT)) <= presets().keys()
    events = {path.name for path in (ROOT / "events").iterdir()}
    assert set(re.findall(r"`([a-z0-9-]+\.json)`", TEXT)) - NOT_EVENTS == events
    assert set(re.findall(r"events/([a-z0-9-]+\.json)", TEXT)) <= events
    resources = template()["Resources"]
    assert set(re.findall(r"\$\(resource ([A-Z]\w+)\)", TEXT)) <= resources.keys()
    for role in re.findall(r"for role in (.+); do", TEXT)[0].split():
        policies = [each["PolicyName"] for each in resources[role]["Properties"]["Policies"]]
        assert set(re.findall(r"--policy-name (\S+)", TEXT)) <= set(policies)


def overridden() -> set[str]:
    """Return the parameters that a command line sets."""
    given = re.findall(r"--parameter-overrides ((?:[A-Z]\w+=\S+ ?)+)", TEXT)
    return {name for each in given for name in re.findall(r"([A-Z]\w+)=", each)}


@pytest.mark.parametrize(
    "parameter", sorted(set(re.findall(r"`([A-Z][a-zA-Z]+[a-z])`", TEXT)) | overridden())
)
def test_parameters_exist(parameter: str) -> None:
    """Every name that looks like a parameter or an output is one."""
    known = template()["Parameters"].keys() | template()["Outputs"].keys()
    assert parameter in known


#: Options of the AWS CLI itself, and one that it has renamed.
OF_THE_CLI = {
    "query",
    "output",
    "endpoint-url",
    "cli-binary-format",
    "cli-read-timeout",
    "cli-input-json",
    "notification-endpoint",
}

#: Commands of the AWS CLI that use several operations.
OWN_COMMANDS = {("s3", "cp"), ("s3", "ls"), ("s3", "mb"), ("s3", "rb"), ("logs", "tail")}


def aws_commands() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield service, operation and options of each command of the AWS CLI."""
    joined = TEXT.replace("\\\n", " ")
    for line in joined.splitlines():
        for command in re.split(r"\baws(?= [a-z0-9-]+ [a-z0-9-]+)", line)[1:]:
            service, operation, *words = command.split()
            if operation == "wait":
                operation = f"wait {words[0]}"
            options = re.findall(r"(?<= --)[a-z0-9-]+", command.split("`")[0])
            yield service, operation.strip("`,;):."), tuple(options)


@pytest.mark.parametrize(("service", "operation", "options"), sorted(set(aws_commands())))
def test_commands_of_the_aws_cli_exist(
    service: str, operation: str, options: tuple[str, ...]
) -> None:
    """Each command is an operation of the service and has the options that are given."""
    if (service, operation) in OWN_COMMANDS:
        return
    model = SESSION.get_service_model({"s3api": "s3"}.get(service, service))
    if operation.startswith("wait "):
        waiters = SESSION.get_waiter_model(service).waiter_names
        assert operation.removeprefix("wait ") in [xform_name(name, "-") for name in waiters]
        return
    names = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in names
    shape = model.operation_model(names[operation]).input_shape
    taken = {xform_name(name, "-") for name in (shape.members if shape else ())}
    given = {option.removeprefix("no-") for option in options} - OF_THE_CLI
    assert given <= taken


def test_a_local_function_gets_the_endpoint_of_s3(tmp_path: Path) -> None:
    """The documented change of the built template adds the variable to both functions."""
    (command,) = re.findall(r"^perl -pi -e '(.+)' (?:\S+)$", TEXT, re.MULTILINE)
    built = tmp_path / "template.yaml"
    built.write_text(yaml.safe_dump(_plain(template())))
    subprocess.run(["perl", "-pi", "-e", command, str(built)], check=True)
    functions = dict(of_type(yaml_parse(built.read_text()), "AWS::Serverless::Function"))
    for name in ("AggregatorFunction", "MigrationFunction"):
        assert functions[name]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] == ""


def test_a_schedule_keeps_everything_but_its_state(stack: Stack) -> None:
    """The documented filter turns the answer of GetSchedule into a request that changes the state only."""
    (code,) = re.findall(r"get-schedule .*\| python -c '\n(.+?)' \$1", TEXT, re.DOTALL)
    scheduler = boto3.client("scheduler")
    key = {"GroupName": stack.outputs["ScheduleGroup"], "Name": stack.physical_ids["Sweep"]}
    before = scheduler.get_schedule(**key)
    del before["ResponseMetadata"]
    filtered = subprocess.run(
        [sys.executable, "-c", code, "DISABLED"],
        input=json.dumps(before, default=str),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    scheduler.update_schedule(**json.loads(filtered))
    after = scheduler.get_schedule(**key)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"State", "LastModificationDate"}
    assert after["State"] == "DISABLED"
    scheduler.update_schedule(**json.loads(filtered) | {"State": "ENABLED"})


def _plain(value: Any) -> Any:
    """Return plain dicts and lists, which YAML can write."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
