"""The functions' roles: enough for every call that the suite makes, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.storage.s3 import S3Objects
from local.cloud import Cloud
from tests.deploy.aws_calls import (
    AGGREGATOR,
    API,
    OPERATOR,
    STATE_MACHINE,
    WORKER,
    grants_of,
    recorder,
)
from tests.deploy.policy import Place, UnknownCall, grants, needs, permits
from tests.deploy.stack import template

QUEUE, DEAD_LETTERS = "http://127.0.0.1/queue", "http://127.0.0.1/dead-letters"
PLACE = Place(
    bucket="federation",
    queues={"queue": "UploadQueue", "dead-letters": "DeadLetterQueue"},
    event_bus="federation",
    state_machine="arn:aws:states:eu-central-1:123456789012:stateMachine:federation-round",
)

#: Actions that are allowed although no API call of the suite needs them. The token for rds-db:connect is
#: computed locally; the database asks IAM when it is used. S3 calls KMS for a function that reads or writes
#: the data key of a private model.
UNSEEN = {
    AGGREGATOR: {"rds-db:connect", "kms:Decrypt", "kms:GenerateDataKey"},
    OPERATOR: {"rds-db:connect", "kms:Decrypt"},
    WORKER: {"kms:Decrypt"},
    API: {"rds-db:connect"},
}


def refused(operation: str, *, role: str = AGGREGATOR, **parameters: Any) -> bool:
    """Return whether the role of a function refuses a call."""
    wanted = needs(operation, parameters, PLACE)
    return not all(any(permits(grant, need) for grant in grants_of(role)) for need in wanted)


def test_operators_cannot_delete_updates_or_messages() -> None:
    """The operators' function deletes no object but aggregates, and no message but dead letters."""
    place = {"role": OPERATOR, "Bucket": "federation"}
    assert not refused("s3.DeleteObject", Key="aggregates/3/1.safetensors", **place)
    for key in ("updates/3/client/a.npz", "scores/3/client/7.json", "artifacts/3/a.npz"):
        assert refused("s3.DeleteObject", Key=key, **place)
    for operation in ("sqs.ReceiveMessage", "sqs.DeleteMessage"):
        assert refused(operation, role=OPERATOR, QueueUrl=QUEUE)
        assert not refused(operation, role=OPERATOR, QueueUrl=DEAD_LETTERS)


def test_the_queue_endpoint_admits_what_the_roles_allow() -> None:
    """The policy of the endpoint admits what the functions may ask of SQS, and nothing else."""
    endpoint = template("infra/network.yaml")["Resources"]["QueueEndpoint"]["Properties"]
    arguments = template()["Resources"]["Network"]["Properties"]["Parameters"]
    allowed = grants_of(AGGREGATOR) + grants_of(OPERATOR)
    admitted = grants(endpoint["PolicyDocument"]["Statement"], arguments)
    assert {one for one in allowed if one.action.startswith("sqs:")} == set(admitted)


def test_the_endpoint_of_step_functions_admits_what_the_role_allows() -> None:
    """The policy of the endpoint admits executions of the stack's own state machine, and nothing else."""
    endpoint = template("infra/network.yaml")["Resources"]["StateMachineEndpoint"]["Properties"]
    arguments = template()["Resources"]["Network"]["Properties"]["Parameters"]
    admitted = grants(endpoint["PolicyDocument"]["Statement"], arguments)
    allowed = [one for one in grants_of(AGGREGATOR) if one.action.startswith("states:")]
    assert admitted == allowed
    arn = PLACE.state_machine
    assert not refused("stepfunctions.StartExecution", stateMachineArn=arn)
    assert refused("stepfunctions.StartExecution", stateMachineArn=f"{arn}-other")


def test_workers_store_parts_and_results_of_tasks_only() -> None:
    """A worker completes no upload of its own elsewhere, deletes nothing, and has no database."""
    place = {"role": WORKER, "Bucket": "federation"}
    assert not refused("s3.UploadPart", Key="aggregates/3/1.safetensors", **place)
    for key in ("updates/3/client/a.npz", "scores/3/client/7.json", "artifacts/3/a.npz"):
        assert refused("s3.PutObject", Key=key, **place)
    for key in ("aggregates/3/1.safetensors", "plans/3/1-a/plan.json"):
        assert refused("s3.DeleteObject", Key=key, **place)
    assert refused("s3.AbortMultipartUpload", Key="aggregates/3/1.safetensors", **place)
    (other,) = [one for one in grants_of(WORKER) if not one.action.startswith("s3:")]
    assert other.action == "kms:Decrypt"  # For the seeds of private models, through S3.


@pytest.mark.parametrize("role", [AGGREGATOR, OPERATOR, WORKER])
def test_seed_keys_are_destroyed_by_operators_only(role: str) -> None:
    """All functions read the data keys of private models, one creates them, and another one erases them."""
    key = {"role": role, "Bucket": "federation", "Key": "keys/3.key"}
    assert not refused("s3.GetObject", **key)
    assert refused("s3.PutObject", **key) == (role != AGGREGATOR)
    assert refused("s3.DeleteObject", **key, VersionId="1") == (role != OPERATOR)
    assert refused("s3.DeleteObject", **key)


def test_the_api_changes_no_weights_and_deletes_nothing() -> None:
    """It stores parts of updates, scores and credentials only, and has no queue."""
    place = {"role": API, "Bucket": "federation"}
    for key in ("aggregates/3/latest.json", "artifacts/3/a.npz", "status/3/a.json", "plans/3/a"):
        assert refused("s3.PutObject", Key=key, **place)
    for key in ("updates/3/client/a.npz", "clients/a.json", "scores/3/client/7.json"):
        assert refused("s3.DeleteObject", Key=key, **place)
    assert {one.action.split(":")[0] for one in grants_of(API)} == {"s3", "rds-db"}


@pytest.mark.parametrize("prefix", ["updates", "scores", "aggregates", "artifacts"])
def test_weights_are_read(prefix: str) -> None:
    """The function reads what clients, rounds and operators store."""
    assert not refused("s3.GetObject", Bucket="federation", Key=f"{prefix}/3/a.safetensors")


def test_only_aggregates_are_written() -> None:
    """The function can neither forge nor remove a client's update, nor write elsewhere."""
    assert not refused("s3.UploadPart", Bucket="federation", Key="aggregates/3/1.safetensors")
    for operation in ("s3.PutObject", "s3.DeleteObject", "s3.CreateMultipartUpload"):
        for key in (
            "updates/3/client/a.npz",
            "scores/3/client/7.json",
            "artifacts/3/a.npz",
            "else/a.npz",
        ):
            assert refused(operation, Bucket="federation", Key=key)


def test_resources_of_others_are_refused() -> None:
    """Nothing is allowed outside the bucket, the queue and the event bus of the stack."""
    assert refused("s3.GetObject", Bucket="another", Key="updates/3/client/a.npz")
    assert refused("sqs.SendMessage", QueueUrl="http://127.0.0.1/another")
    assert refused("sqs.SendMessage", QueueUrl=DEAD_LETTERS)
    assert not refused("sqs.SendMessage", QueueUrl=QUEUE)
    assert refused("events.PutEvents", Entries=[{"EventBusName": "default"}])
    assert not refused("events.PutEvents", Entries=[{"EventBusName": "federation"}])


def test_an_unknown_call_is_an_error() -> None:
    """A call that the table of needs lacks is never taken for allowed."""
    with pytest.raises(UnknownCall):
        refused("s3.DeleteBucket", Bucket="federation")


@pytest.mark.parametrize(
    ("role", "user"), [(AGGREGATOR, "DatabaseUser"), (OPERATOR, "DatabaseOwner")]
)
def test_a_role_signs_in_as_one_user(role: str, user: str) -> None:
    """Each role signs in to one database as one user."""
    (connect,) = [one for one in grants_of(role) if one.action == "rds-db:connect"]
    assert connect.resource.endswith(f":dbuser:${{Id}}/${{{user}}}")
    assert "*" not in connect.resource


def test_an_upload_is_resumed(cloud: Cloud) -> None:
    """An interrupted round asks S3 which parts of its result are stored, and uploads the others."""
    objects = S3Objects(cloud.client("s3"), cloud.bucket)
    begun = objects.sink("aggregates/3/1.safetensors", None)
    begun.write_part(1, b"a" * (5 << 20))
    resumed = objects.sink("aggregates/3/1.safetensors", begun.state())
    resumed.write_part(2, b"b", last=True)
    resumed.complete()
    assert objects.stat("aggregates/3/1.safetensors").size == (5 << 20) + 1


def test_nothing_is_allowed_that_nothing_uses() -> None:
    """Over the whole suite, each allowed action was needed, except those above."""
    for role in (AGGREGATOR, OPERATOR, WORKER, API, STATE_MACHINE):
        used = [need for by, need in recorder.used if by == role]
        idle = [one for one in grants_of(role) if not any(permits(one, need) for need in used)]
        assert {one.action for one in idle} == UNSEEN.get(role, set()), role
