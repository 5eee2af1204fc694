"""The template, created in moto's CloudFormation, and an upload that travels through what it made."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest
import safetensors.numpy

from local.cloud import Cloud
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from tests.conftest import using_database
from tests.deploy.stack import Stack, create, presets, template
from tests.factories import client_id, filled, make_model

UNCONDITIONAL = {
    name for name, resource in template()["Resources"].items() if "Condition" not in resource
}


def existing_network() -> dict[str, str]:
    """Parameters that name a VPC and a database which were there before the stack."""
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.60.0.0/24")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.60.0.{start}/25")["Subnet"]["SubnetId"]
        for start in (0, 128)
    ]
    group = ec2.create_security_group(GroupName="db", Description="database", VpcId=vpc)["GroupId"]
    return {
        "ExistingVpc": vpc,
        "ExistingSubnets": ",".join(subnets),
        "ExistingDatabaseHost": "db.example",
        "ExistingDatabasePort": "6432",
        "ExistingDatabaseResourceId": "db-ABCDEFGHIJKL",
        "ExistingDatabaseSecurityGroup": group,
    }


def environment(stack: Stack, function: str = "AggregatorFunction") -> dict[str, str]:
    """The environment variables of a function as it was created."""
    configuration = boto3.client("lambda").get_function_configuration(
        FunctionName=stack.physical_ids[function]
    )
    variables = configuration["Environment"]["Variables"]
    return {name: str(value) for name, value in variables.items()}  # moto keeps numbers as such


def test_the_default_stack_is_created(stack: Stack) -> None:
    """With no parameter given, everything that no condition holds back is made."""
    assert stack.status == "CREATE_COMPLETE"
    assert {name for name in UNCONDITIONAL if name not in stack.physical_ids} == set()
    assert "Database" in stack.physical_ids
    assert "Proxy" not in stack.physical_ids
    assert "TraceEndpoint" not in stack.physical_ids


@pytest.mark.parametrize("size", [size for size in presets() if size != "default"])
def test_each_size_is_created(size: str) -> None:
    """The sizes of samconfig.toml make stacks."""
    assert create(presets()[size]).status == "CREATE_COMPLETE"


def test_the_optional_parts_are_created() -> None:
    """Proxy, traces, events, reserved concurrency, a mailed alarm: each is made when it is asked for."""
    stack = create(
        {
            "DatabaseProxy": "on",
            "DatabaseMinCapacity": "0.5",
            "Tracing": "on",
            "EventBus": "federation",
            "EndpointZones": "2",
            "ReservedConcurrency": "10",
            "AlarmEmail": "team@example.com",
        }
    )
    assert stack.status == "CREATE_COMPLETE"
    assert {"Proxy", "ProxyTargets", "AlarmMail"} <= stack.physical_ids.keys()
    assert {"QueueEndpoint", "TraceEndpoint", "EventEndpoint"} <= stack.physical_ids.keys()
    assert environment(stack)["EVENT_BUS"] == "federation"
    assert environment(stack)["POWERTOOLS_TRACE_DISABLED"] == "false"


def test_without_an_endpoint_the_function_does_not_send() -> None:
    """The cheapest stack has no interface endpoint, and the function is told of no queue."""
    stack = create({"EndpointZones": "0"})
    assert not {"QueueEndpoint", "TraceEndpoint"} & stack.physical_ids.keys()
    assert "StorageEndpoint" in stack.physical_ids
    assert "QUEUE_URL" not in environment(stack)


def test_an_existing_database_and_network_are_used() -> None:
    """With both given, none is made, and the functions are told where theirs is."""
    stack = create(existing_network())
    assert stack.status == "CREATE_COMPLETE"
    assert not {"Database", "DatabaseUsers", "Vpc", "StorageEndpoint"} & stack.physical_ids.keys()
    assert environment(stack)["DATABASE_URL"] == "postgres://aggregator@db.example:6432/aggregator"


def test_deploying_makes_users_and_then_migrates(stack: Stack) -> None:
    """Two requests go to the deploying function: the database's users, then the migrations of the
    version that is being deployed."""
    users, migration = stack.custom_requests
    assert users["Cluster"] == stack.outputs["DatabaseClusterArn"]
    assert users["Secret"] == stack.outputs["DatabaseSecretArn"]
    assert migration["Function"] == stack.physical_ids["MigrationFunctionAliaslive"]
    assert migration["CodeVersion"].startswith("arn:aws:lambda:")


def test_the_functions_sign_in_as_different_users(stack: Stack) -> None:
    """The aggregating function is the user of rows, the migrating one the owner of tables."""
    database = boto3.client("rds").describe_db_clusters()["DBClusters"][0]["Endpoint"]
    assert environment(stack)["DATABASE_URL"] == f"postgres://aggregator@{database}:5432/aggregator"
    assert environment(stack, "MigrationFunction")["DATABASE_URL"] == (
        f"postgres://aggregator_owner@{database}:5432/aggregator"
    )


def test_the_bucket_is_private_and_keeps_versions(stack: Stack) -> None:
    """What was written in the template is what S3 says of the bucket."""
    s3, bucket = boto3.client("s3"), stack.outputs["BucketName"]
    access = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert access == dict.fromkeys(access, True)
    assert len(access) == 4
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["ID"] for rule in rules} == {
        "old-updates",
        "old-scores",
        "replaced-versions",
        "unfinished-uploads",
    }
    owned = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]
    assert owned["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    denied, old_tls, *_ = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert old_tls["Condition"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}


def test_the_queue_outlasts_six_timeouts_and_gives_up(stack: Stack) -> None:
    """The created queue hides a message for six timeouts, and sets it aside after five deliveries."""
    sqs = boto3.client("sqs")
    attributes = sqs.get_queue_attributes(
        QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["All"]
    )["Attributes"]
    function = boto3.client("lambda").get_function_configuration(
        FunctionName=stack.physical_ids["AggregatorFunction"]
    )
    assert int(attributes["VisibilityTimeout"]) >= 6 * function["Timeout"]
    redrive = json.loads(attributes["RedrivePolicy"])
    dead_letters = stack.outputs["DeadLetterQueueUrl"].rsplit("/", 1)[1]
    assert redrive["deadLetterTargetArn"].endswith(dead_letters)
    assert int(redrive["maxReceiveCount"]) == 5


def test_the_queue_calls_the_live_version(stack: Stack) -> None:
    """Lambda takes batches from the queue for the alias, so many side by side as was asked for."""
    (mapping,) = boto3.client("lambda").list_event_source_mappings(
        FunctionName=stack.physical_ids["AggregatorFunctionAliaslive"]
    )["EventSourceMappings"]
    assert mapping["EventSourceArn"].endswith(stack.outputs["QueueUrl"].rsplit("/", 1)[1])
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_only_the_bucket_may_notify_the_queue(stack: Stack) -> None:
    """The queue's policy names the one bucket, by the name that the bucket then got."""
    policy = boto3.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["Policy"]
    )["Attributes"]["Policy"]
    allowed = [one for one in json.loads(policy)["Statement"] if one["Effect"] == "Allow"]
    (statement,) = allowed
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    source = f"arn:aws:s3:::{stack.outputs['BucketName']}"
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": source}


def test_the_alarms_watch_what_was_made(stack: Stack) -> None:
    """Each alarm's dimensions name a queue, a function or a service that exists under that name."""
    made = {value.rsplit("/", 1)[-1] for value in stack.physical_ids.values()} | {stack.name}
    alarms = boto3.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{stack.name}-")
    assert len(alarms["MetricAlarms"]) == 8
    for alarm in alarms["MetricAlarms"]:
        assert {one["Value"] for one in alarm["Dimensions"]} <= made
        assert alarm["AlarmActions"] == [stack.outputs["AlarmTopic"]]


def test_the_dashboard_is_whole(stack: Stack) -> None:
    """The dashboard is JSON in which no reference was left open."""
    dashboard = boto3.client("cloudwatch").get_dashboard(
        DashboardName=stack.outputs["DashboardName"]
    )["DashboardBody"]
    assert len(json.loads(dashboard)["widgets"]) == 9
    assert "${" not in dashboard


def test_only_updates_are_announced(stack: Stack) -> None:
    """An aggregate that the function writes does not call the function."""
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    bucket, queue = stack.outputs["BucketName"], stack.outputs["QueueUrl"]
    open_the_bucket(bucket)
    drain(queue)
    s3.put_object(Bucket=bucket, Key="aggregates/3/round-1.safetensors", Body=b"weights")
    s3.put_object(Bucket=bucket, Key="updates/3/client/update.safetensors", Body=b"weights")
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    records = [record for one in messages for record in json.loads(one["Body"])["Records"]]
    assert [record["s3"]["object"]["size"] for record in records] == [7]
    assert records[0]["s3"]["object"]["key"].startswith("updates")
    drain(queue)


def test_an_upload_travels_into_a_round(
    stack: Stack, cloud: Cloud, sqlite_url: str, tmp_path: Path
) -> None:
    """An upload to the created bucket goes through the created queue into the function, with the
    environment that the template gives it, and comes out as an aggregate."""
    bucket, queue = stack.outputs["BucketName"], stack.outputs["QueueUrl"]
    here = {"DATABASE_URL": sqlite_url, "DATABASE_IAM_AUTH": "false"}
    open_the_bucket(bucket)
    drain(queue)
    function = LambdaRuntime(
        environment=cloud.environment() | environment(stack) | here, log=tmp_path / "log"
    )
    with using_database(sqlite_url), function:
        model = make_model(1, requirement="all_clients")
        key = f"updates/{model.pk}/{client_id(1)}/round 1.safetensors"
        body = safetensors.numpy.save(filled(2.0))
        boto3.client("s3").put_object(
            Bucket=bucket, Key=key, Body=body, Metadata={"num-examples": "3"}
        )
        pump = EventPump(queue, function.invoke, wait_seconds=0)
        assert pump.pump_once() == 1
        assert pump.last_error is None, (tmp_path / "log").read_text()
        aggregate = model.aggregates.get()
    result = boto3.client("s3").get_object(Bucket=bucket, Key=aggregate.result.name)["Body"].read()
    assert safetensors.numpy.load(result)["w"].tolist() == filled(2.0)["w"].tolist()


def test_operators_find_the_stack_well(
    stack: Stack, cloud: Cloud, sqlite_url: str, tmp_path: Path
) -> None:
    """The operators' function, with the environment that the template gives it, reaches the bucket and
    both queues, and finds the notifications as they should be."""
    open_the_bucket(stack.outputs["BucketName"])
    drain(stack.outputs["QueueUrl"])
    here = {"DATABASE_URL": sqlite_url, "DATABASE_IAM_AUTH": "false"}
    function = LambdaRuntime(
        "lambda_handler.migrate",
        environment=cloud.environment() | environment(stack, "MigrationFunction") | here,
        log=tmp_path / "log",
    )
    with function:
        answer = function.invoke({"command": "doctor", "arguments": ["--json"]})
    found = {each["check"]: each["verdict"] for each in json.loads(answer["output"])}
    assert {"storage", "notification", "queue", "dead letters"} < found.keys()
    assert set(found.values()) == {"ok"}


def open_the_bucket(bucket: str) -> None:
    """Take the bucket's policy away: moto heeds no condition, so it denies TLS and plain HTTP alike."""
    boto3.client("s3").delete_bucket_policy(Bucket=bucket)


def drain(queue: str) -> None:
    """Delete what waits in a queue, such as the test message of S3."""
    sqs = boto3.client("sqs")
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
