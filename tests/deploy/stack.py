"""The template, translated as CloudFormation would, and created in moto."""

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
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from tests.deploy import moto_types

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
ARTIFACTS = "artifacts"

Template = dict[str, Any]


class _NoManagedPolicies:
    """The translator asks an account for its managed policies; the template names none."""

    def load(self) -> dict[str, str]:
        return {}


def template() -> Template:
    """The template as it is written, its short forms (``!Ref``) spelled out."""
    return deepcopy(_parsed())


@cache
def _parsed() -> Template:
    parsed: Template = yaml_parse(TEMPLATE.read_text())
    return parsed


def translated(parameters: dict[str, str] | None = None) -> Template:
    """The template as plain CloudFormation, its code uploaded as `sam package` would.

    Parameters
    ----------
    parameters
        Values that differ from the defaults.
    """
    document = template()
    for resource in document["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function" and "CodeUri" in resource["Properties"]:
            resource["Properties"]["CodeUri"] = f"s3://{ARTIFACTS}/code.zip"
    plain: Template = transform(document, parameters or {}, _NoManagedPolicies())
    return plain


def presets() -> dict[str, dict[str, str]]:
    """The parameter values of each size in samconfig.toml, read as `sam deploy` reads them."""
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    read = CfnParameterOverridesType().convert
    return {
        name: read(environment["deploy"]["parameters"]["parameter_overrides"], None, None)
        for name, environment in config.items()
        if isinstance(environment, dict)
    }


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack that moto made.

    Parameters
    ----------
    name : str
    status : str
    physical_ids : mapping
        By the names in the template.
    outputs : mapping
    custom_requests : list
        The properties of the custom resources, in the order in which they were asked for.
    """

    name: str
    status: str
    physical_ids: dict[str, str]
    outputs: dict[str, str]
    custom_requests: list[dict[str, Any]]


def create(parameters: dict[str, str] | None = None) -> Stack:
    """Create the stack in moto, by the AWS endpoint of the environment."""
    moto_types.register()
    parameters = parameters or {}
    document = translated(parameters)
    for resource in document["Resources"].values():
        if resource["Type"].startswith("Custom::"):
            resource["Type"] = "AWS::CloudFormation::CustomResource"  # the same by its long name
    _upload_code()
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
    (made,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    return Stack(
        name=name,
        status=made["StackStatus"],
        physical_ids={
            one["LogicalResourceId"]: one.get("PhysicalResourceId", "")
            for one in resources
            if "LogicalResourceId" in one  # what a condition left out has no name in moto
        },
        outputs={one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]},
        custom_requests=list(moto_types.custom_requests),
    )


_numbers = itertools.count(1)


def _upload_code() -> None:
    s3 = boto3.client("s3")
    region = boto3.session.Session().region_name
    if ARTIFACTS not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=ARTIFACTS, CreateBucketConfiguration={"LocationConstraint": region})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("lambda_handler.py", "")
    s3.put_object(Bucket=ARTIFACTS, Key="code.zip", Body=archive.getvalue())
