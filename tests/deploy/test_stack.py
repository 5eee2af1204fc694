"""The application, created in moto's CloudFormation, and an upload that travels through it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import safetensors.numpy

from local.cloud import Cloud
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from local.step_functions import FunctionPool, functions_served
from tests.conftest import using_database
from tests.deploy.stack import APPLICATION, Stack, create, nested, presets, template
from tests.factories import client_id, filled, make_model, s3_record

UNCONDITIONAL = {
    prefix + name
    for prefix, file in {"": APPLICATION, **{f"{k}.": v for k, v in nested().items()}}.items()
    for name, resource in template(file)["Resources"].items()
    if "Condition" not in resource
}


def existing_network() -> dict[str, str]:
    """Create a VPC, and return parameters that name it and an existing database."""
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
    """Return the environment variables of a function."""
    configuration = boto3.client("lambda").get_function_configuration(
        FunctionName=stack.physical_ids[function]
    )
    variables = configuration["Environment"]["Variables"]
    return {name: str(value) for name, value in variables.items()}  # moto keeps numbers


def test_the_default_stack_is_created(stack: Stack) -> None:
    """Without parameters, everything is created that has no condition."""
    assert stack.status == "CREATE_COMPLETE"
    assert {name for name in UNCONDITIONAL if name not in stack.physical_ids} == set()
    assert "Database.Cluster" in stack.physical_ids
    assert "Database.Proxy" not in stack.physical_ids
    assert "Network.TraceEndpoint" not in stack.physical_ids
    assert "STATE_MACHINE_ARN" not in environment(stack)
    optional = ("Worker", "StateMachine", "Api", "PrivacyKey")
    assert not [name for name in stack.physical_ids if any(part in name for part in optional)]


@pytest.mark.parametrize("size", [size for size in presets() if size != "default"])
def test_each_size_is_created(size: str) -> None:
    """Each size of samconfig.toml creates a stack."""
    assert create(presets()[size]).status == "CREATE_COMPLETE"


def test_the_optional_parts_are_created() -> None:
    """Proxy, traces, events, reserved concurrency and e-mails are created if asked for."""
    stack = create(
        {
            "DatabaseProxy": "on",
            "DatabaseMinCapacity": "0.5",
            "Tracing": "on",
            "EventBus": "federation",
            "EndpointZones": "2",
            "ReservedConcurrency": "10",
            "AlarmEmail": "team@example.com",
            "MaxFunctions": "8",
            "ClientApi": "on",
            "Privacy": "on",
            "MaskKeeper": "210987654321/keeper",
        }
    )
    assert stack.status == "CREATE_COMPLETE"
    assert {
        "Database.Proxy",
        "Database.ProxyTargets",
        "Network.QueueEndpoint",
        "Network.TraceEndpoint",
        "Network.EventEndpoint",
        "Network.StateMachineEndpoint",
        "Network.WorkersReachEndpoints",
        "Observability.AlarmMail",
        "Observability.ExecutionsTimedOutAlarm",
        "ClientHttpApi",
        "ApiFunction",
        "PrivacyKey",
    } <= stack.physical_ids.keys()
    assert environment(stack)["EVENT_BUS"] == "federation"
    assert environment(stack)["POWERTOOLS_TRACE_DISABLED"] == "false"
    assert environment(stack)["MAX_FUNCTIONS"] == "8"
    for function in ("AggregatorFunction", "WorkerFunction", "MigrationFunction"):
        key = environment(stack, function)["PRIVACY_KEY"]
        assert key.endswith(f":key/{stack.physical_ids['PrivacyKey']}")
    machine = stack.outputs["StateMachineArn"]
    assert environment(stack)["STATE_MACHINE_ARN"] == machine
    definition = boto3.client("stepfunctions").describe_state_machine(stateMachineArn=machine)
    assert "${" not in definition["definition"]
    assert stack.physical_ids["AggregatorFunctionAliaslive"] in definition["definition"]
    assert environment(stack, "WorkerFunction")["DATABASE_URL"] == "sqlite:///:memory:"


def test_without_an_endpoint_the_function_does_not_send() -> None:
    """The cheapest stack has no interface endpoint, and the function knows no queue."""
    stack = create({"EndpointZones": "0"})
    assert not {"Network.QueueEndpoint", "Network.TraceEndpoint"} & stack.physical_ids.keys()
    assert "Network.StorageEndpoint" in stack.physical_ids
    assert "QUEUE_URL" not in environment(stack)


def test_an_existing_database_and_network_are_used() -> None:
    """If both exist, none is created, and the functions are configured with them."""
    stack = create(existing_network())
    assert stack.status == "CREATE_COMPLETE"
    created = stack.physical_ids.keys()
    assert not {"Database", "DatabaseUsers", "Network.Vpc", "Network.StorageEndpoint"} & created
    assert environment(stack)["DATABASE_URL"] == "postgres://aggregator@db.example:6432/aggregator"


def test_a_deployment_creates_users_and_then_migrates(stack: Stack) -> None:
    """The deploying function creates the users and then migrates with the version being deployed."""
    users, migration = stack.custom_requests
    assert users["Cluster"] == stack.outputs["DatabaseClusterArn"]
    assert users["Secret"] == stack.outputs["DatabaseSecretArn"]
    assert migration["Function"] == stack.physical_ids["MigrationFunctionAliaslive"]
    assert migration["CodeVersion"].startswith("arn:aws:lambda:")


def test_the_functions_sign_in_as_different_users(stack: Stack) -> None:
    """The aggregating function may use rows; the migrating function owns the tables."""
    (cluster,) = boto3.client("rds").describe_db_clusters(
        DBClusterIdentifier=stack.physical_ids["Database.Cluster"]
    )["DBClusters"]
    database = cluster["Endpoint"]
    assert environment(stack)["DATABASE_URL"] == f"postgres://aggregator@{database}:5432/aggregator"
    assert environment(stack, "MigrationFunction")["DATABASE_URL"] == (
        f"postgres://aggregator_owner@{database}:5432/aggregator"
    )


def test_the_bucket_is_private_and_keeps_versions(stack: Stack) -> None:
    """S3 reports the settings of the template."""
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
        "replaced-status",
        "old-plans",
        "old-masks",
        "unfinished-uploads",
    }
    owned = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]
    assert owned["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    denied, old_tls, *_ = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert old_tls["Condition"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}


def test_the_queue_waits_six_timeouts_and_gives_up(stack: Stack) -> None:
    """A message is invisible for six timeouts, and a dead letter after five deliveries."""
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
    """Lambda passes batches of the queue to the alias."""
    (mapping,) = boto3.client("lambda").list_event_source_mappings(
        FunctionName=stack.physical_ids["AggregatorFunctionAliaslive"]
    )["EventSourceMappings"]
    assert mapping["EventSourceArn"].endswith(stack.outputs["QueueUrl"].rsplit("/", 1)[1])
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_only_the_bucket_may_notify_the_queue(stack: Stack) -> None:
    """The policy of the queue admits the bucket, by the name that the bucket then has."""
    policy = boto3.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["Policy"]
    )["Attributes"]["Policy"]
    allowed = [one for one in json.loads(policy)["Statement"] if one["Effect"] == "Allow"]
    (statement,) = allowed
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    source = f"arn:aws:s3:::{stack.outputs['BucketName']}"
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": source}


def test_the_alarms_watch_existing_resources(stack: Stack) -> None:
    """The dimensions of each alarm name a queue, a function or the service of the stack."""
    existing = {value.rsplit("/", 1)[-1] for value in stack.physical_ids.values()} | {stack.name}
    names = [each for name, each in stack.physical_ids.items() if name.endswith("Alarm") and each]
    assert len(names) == 8
    alarms = boto3.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    for alarm in alarms:
        assert {one["Value"] for one in alarm["Dimensions"]} <= existing
        assert alarm["AlarmActions"] == [stack.outputs["AlarmTopic"]]


def test_the_dashboard_is_complete(stack: Stack) -> None:
    """The dashboard is JSON in which every reference is resolved."""
    dashboard = boto3.client("cloudwatch").get_dashboard(
        DashboardName=stack.outputs["DashboardName"]
    )["DashboardBody"]
    assert len(json.loads(dashboard)["widgets"]) == 9
    assert "${" not in dashboard


def test_only_updates_notify_the_queue(stack: Stack) -> None:
    """An aggregate that the function writes does not invoke the function."""
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
    """An upload to the created bucket passes through the queue into the function, with the environment
    of the template, and an aggregate results."""
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
    result = (
        boto3.client("s3").get_object(Bucket=bucket, Key=str(aggregate.result.name))["Body"].read()
    )
    assert safetensors.numpy.load(result)["w"].tolist() == filled(2.0)["w"].tolist()


@pytest.fixture
def shared_stack(cloud: Cloud, sqlite_url: str, tmp_path: Path) -> Iterator[SharedStack]:
    """Create the application with workers, and run its functions with the environments of the template."""
    functions: dict[str, LambdaRuntime] = {}
    with ExitStack() as context:
        # moto keeps the machines that it executes apart from others.
        context.enter_context(functions_served(lambda *call: shared.invoke(*call)))
        stack = create({"MaxFunctions": "2", "FunctionMbPerSecond": "1"})
        here = {"DATABASE_URL": sqlite_url, "DATABASE_IAM_AUTH": "false"}
        for name, handler, own in (
            ("AggregatorFunction", "handler", here),
            ("WorkerFunction", "work", {}),
        ):
            variables = cloud.environment() | environment(stack, name) | own
            runtime = LambdaRuntime(
                f"lambda_handler.{handler}", environment=variables, log=tmp_path / name
            )
            functions[name] = context.enter_context(runtime)
        shared = SharedStack(stack, functions["AggregatorFunction"], functions["WorkerFunction"])
        context.enter_context(using_database(sqlite_url))
        yield shared


class SharedStack:
    """A stack with workers; one of them runs at a time."""

    def __init__(self, stack: Stack, main: LambdaRuntime, worker: LambdaRuntime) -> None:
        self.stack = stack
        self.main = main
        self._workers = FunctionPool([worker])
        self.tasks: list[str] = []

    def invoke(self, name: str, event: Any) -> Any:
        self.tasks.append(event["task"])
        if "Worker" in name:
            return self._workers.invoke(name, event)
        return self.main.invoke(event)

    def await_executions(self) -> None:
        """Wait until no execution of the state machine is running."""
        machine = self.stack.outputs["StateMachineArn"]
        running: Any = {"stateMachineArn": machine, "statusFilter": "RUNNING"}
        while boto3.client("stepfunctions").list_executions(**running)["executions"]:
            time.sleep(0.1)


def test_the_functions_of_the_stack_share_a_round(shared_stack: SharedStack) -> None:
    """The created state machine has the created functions do a round; the workers have no database."""
    bucket = shared_stack.stack.outputs["BucketName"]
    open_the_bucket(bucket)
    body = safetensors.numpy.save({"w": np.ones(13 << 18, np.float32)})  # two parts
    model = make_model(2, requirement="all_clients", target_round_seconds=1)
    for client in (1, 2):
        key = f"updates/{model.pk}/{client_id(client)}/1.safetensors"
        stored = boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
        record = s3_record(key, stored["ETag"].strip('"'), len(body), bucket)
        shared_stack.main.invoke({"Records": [record]})
    shared_stack.await_executions()
    assert model.aggregates.count() == 1
    assert sorted(shared_stack.tasks) == ["combine", "combine", "publish"]


def test_the_operators_function_checks_the_stack(
    stack: Stack, cloud: Cloud, sqlite_url: str, tmp_path: Path
) -> None:
    """The operators' function, with the environment of the template, reaches the bucket and both queues,
    and finds the notifications correct."""
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
    found = {each["check"]: each["status"] for each in json.loads(answer["output"])}
    assert {"storage", "notification", "queue", "dead letters"} < found.keys()
    assert set(found.values()) == {"ok"}


def open_the_bucket(bucket: str) -> None:
    """Delete the policy of the bucket: moto ignores conditions, so the policy would deny every request."""
    boto3.client("s3").delete_bucket_policy(Bucket=bucket)


def drain(queue: str) -> None:
    """Delete the messages of a queue, such as the test message of S3."""
    sqs = boto3.client("sqs")
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
