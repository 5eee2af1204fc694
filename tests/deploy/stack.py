"""The templates, translated as CloudFormation does it, and the stacks that moto creates from them."""

from __future__ import annotations

import io
import itertools
import json
import tomllib
import zipfile
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from samcli.cli.types import CfnParameterOverridesType
from samcli.lib.cfn_language_extensions.sam_integration import expand_language_extensions
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "template.yaml"
ARTIFACTS = "artifacts"

Template = dict[str, Any]


class _NoManagedPolicies:
    """The translator asks for the managed policies of the account; the template uses none."""

    def load(self) -> dict[str, str]:
        return {}


def template(file: str = APPLICATION) -> Template:
    """Return a template with the short forms (``!Ref``) and ``Fn::ForEach`` expanded.

    Parameters
    ----------
    file
        Its path from the project's root.
    """
    return deepcopy(_parsed(file))


@cache
def _parsed(file: str) -> Template:
    parsed: Template = yaml_parse((ROOT / file).read_text())
    if "Fn::ForEach" not in json.dumps(parsed):
        return parsed
    expanded = expand_language_extensions(parsed, {}, enabled=True).expanded_template["Resources"]
    written = {k: v for k, v in parsed["Resources"].items() if not k.startswith("Fn::ForEach")}
    return {**parsed, "Resources": expanded | written}


def nested() -> dict[str, str]:
    """Return the files of the nested templates by the names of their stacks."""
    return {
        name: resource["Properties"]["TemplateURL"]
        for name, resource in template()["Resources"].items()
        if resource["Type"] == "AWS::CloudFormation::Stack"
    }


def translated(parameters: dict[str, str] | None = None) -> Template:
    """Return the application's template as plain CloudFormation, as `sam package` uploads it.

    Parameters
    ----------
    parameters
        Values that differ from the defaults.
    """
    from samtranslator.translator.transform import transform  # Takes half a second to import.

    document = template()
    for resource in document["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://{ARTIFACTS}/code.zip"
        if resource["Type"] == "AWS::Serverless::StateMachine":
            file = resource["Properties"]["DefinitionUri"]
            resource["Properties"]["DefinitionUri"] = f"s3://{ARTIFACTS}/{file}"
        if resource["Type"] == "AWS::CloudFormation::Stack":
            file = resource["Properties"]["TemplateURL"]
            resource["Properties"]["TemplateURL"] = f"https://s3.amazonaws.com/{ARTIFACTS}/{file}"
    plain: Template = transform(document, parameters or {}, _NoManagedPolicies())
    return plain


def presets() -> dict[str, dict[str, str]]:
    """Return the parameters of each size in samconfig.toml, read as `sam deploy` reads them."""
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    read = CfnParameterOverridesType().convert
    return {
        name: read(environment["deploy"]["parameters"]["parameter_overrides"], None, None)
        for name, environment in config.items()
        if isinstance(environment, dict)
    }


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack that moto created.

    Parameters
    ----------
    name : str
    status : str
    physical_ids : mapping
        By logical name; a resource of a nested stack is named ``Database.Cluster``.
    outputs : mapping
    custom_requests : list
        The properties of the custom resources, in the order of their creation.
    """

    name: str
    status: str
    physical_ids: dict[str, str]
    outputs: dict[str, str]
    custom_requests: list[dict[str, Any]]


def create(parameters: dict[str, str] | None = None) -> Stack:
    """Create the application in moto, at the AWS endpoint of the environment."""
    from tests.deploy import (
        moto_types,
    )  # Takes two seconds to import, and few tests create a stack.

    moto_types.register()
    parameters = parameters or {}
    document = translated(parameters)
    for resource in document["Resources"].values():
        if resource["Type"].startswith("Custom::"):
            resource["Type"] = (
                "AWS::CloudFormation::CustomResource"  # the same type by its long name
            )
    _upload_artifacts()
    cloudformation = boto3.client("cloudformation")
    name = f"federation-{next(_numbers)}"
    moto_types.custom_requests.clear()
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(document),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    (created,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    physical_ids = _physical_ids(name)
    for stack in nested().keys() & physical_ids.keys():
        resources = _physical_ids(physical_ids[stack])
        physical_ids |= {f"{stack}.{logical}": each for logical, each in resources.items()}
    return Stack(
        name=name,
        status=created["StackStatus"],
        physical_ids=physical_ids,
        outputs={one["OutputKey"]: one["OutputValue"] for one in created["Outputs"]},
        custom_requests=list(moto_types.custom_requests),
    )


_numbers = itertools.count(1)


def _physical_ids(stack: str) -> dict[str, str]:
    resources = boto3.client("cloudformation").describe_stack_resources(StackName=stack)
    return {
        one["LogicalResourceId"]: one.get("PhysicalResourceId", "")
        for one in resources["StackResources"]
        if "LogicalResourceId" in one  # moto gives no name to what a condition leaves out
    }


def _upload_artifacts() -> None:
    s3 = boto3.client("s3")
    if ARTIFACTS in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        return
    location: Any = {"LocationConstraint": boto3.session.Session().region_name}
    s3.create_bucket(Bucket=ARTIFACTS, CreateBucketConfiguration=location)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("lambda_handler.py", "")
    s3.put_object(Bucket=ARTIFACTS, Key="code.zip", Body=archive.getvalue())
    for file in nested().values():
        s3.put_object(Bucket=ARTIFACTS, Key=file, Body=json.dumps(template(file)).encode())
    for path in (ROOT / "statemachines").iterdir():
        key = path.relative_to(ROOT).as_posix()
        s3.put_object(Bucket=ARTIFACTS, Key=key, Body=path.read_bytes())
