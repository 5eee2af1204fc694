"""The mask keeper's stack: it is created, and its role allows what the function does and nothing more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from samtranslator.translator.transform import transform

from local.package import KEEPER_CODE, KEEPER_PACKAGES, _copy_code, requirements_of
from tests.deploy.stack import _NoManagedPolicies, template

FILE = "mask_keeper/template.yaml"


@pytest.mark.usefixtures("cloud")
def test_the_stack_is_created() -> None:
    """moto creates the stack; its queue has the name that the aggregator's policies have."""
    from tests.deploy import moto_types  # Takes two seconds to import.

    moto_types.register()
    document = template(FILE)
    properties = document["Resources"]["MaskKeeperFunction"]["Properties"]
    properties |= {"CodeUri": "s3://artifacts/code.zip"}
    del document["Resources"]["MaskKeeperFunction"]["Metadata"]
    plain = transform(document, {}, _NoManagedPolicies())
    created = {
        name: each
        for name, each in plain["Resources"].items()
        if not each["Type"].startswith("AWS::Lambda::")  # moto would fetch the code.
    }
    outputs = {k: v for k, v in plain["Outputs"].items() if v["Value"].get("Ref") in created}
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="keeper",
        TemplateBody=json.dumps({**plain, "Resources": created, "Outputs": outputs}),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[
            {"ParameterKey": "AggregatorBucket", "ParameterValue": "federation"},
            {
                "ParameterKey": "AggregatorQueueArn",
                "ParameterValue": "arn:aws:sqs:eu-central-1:123456789012:federation-events",
            },
        ],
    )
    (stack,) = cloudformation.describe_stacks(StackName="keeper")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    found = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    assert found["QueueUrl"].endswith("/keeper-requests")
    secret = boto3.client("secretsmanager").get_secret_value(SecretId=found["KeySecret"])
    assert len(secret["SecretString"]) == 64
    described = boto3.client("dynamodb").describe_table(TableName=found["Table"])["Table"]
    assert [each["AttributeName"] for each in described["KeySchema"]] == ["id"]


def test_the_role_can_neither_read_updates_nor_change_keys() -> None:
    """In the bucket it reaches masks only, and in the table nothing that a client's key is stored under."""
    policies = template(FILE)["Resources"]["Role"]["Properties"]["Policies"]
    statements = {
        each["Sid"]: each for policy in policies for each in policy["PolicyDocument"]["Statement"]
    }
    assert statements["AnswerRequests"]["Resource"]["Fn::Sub"].endswith("/masks/*")
    written = statements["SpendCommitments"]
    keys = written["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
    assert sorted(keys) == ["request/*", "round/*", "spent/*"]
    actions = [each["Action"] for each in statements.values()]
    listed = [one for each in actions for one in ([each] if isinstance(each, str) else each)]
    of_table = {one for one in listed if one.startswith("dynamodb:")}
    assert of_table == {
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:GetItem",
        "dynamodb:BatchGetItem",
    }
    assert {one for one in listed if "Delete" in one} == {"sqs:DeleteMessage"}


def test_the_code_of_the_zip_runs_without_the_rest(tmp_path: Path) -> None:
    """The modules that are packed import nothing that is not."""
    _copy_code(KEEPER_CODE, tmp_path)
    program = "import mask_keeper.handler, mask_keeper.__main__; print('imported')"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.stdout == "imported\n", found.stderr


def test_the_packages_are_locked_with_hashes() -> None:
    """What is installed for the mask keeper is what is installed for the aggregator."""
    text = requirements_of(KEEPER_PACKAGES)
    assert [line.partition("==")[0] for line in text.splitlines() if "==" in line] == sorted(
        KEEPER_PACKAGES
    )
    assert text.count("--hash=sha256:") > 50
