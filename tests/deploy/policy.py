"""What the role of a function allows, and whether it permits an AWS call.

Resources are compared as the template writes them: an object in the bucket of the function is
``${Bucket.Arn}/key``, whatever the name of the bucket in the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.deploy.practices import Template, flat

Resource = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Need:
    """An action on a resource that an AWS call must be allowed."""

    action: str
    resource: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """The bucket, queues, event bus and state machine of the functions in the recorded calls.

    Parameters
    ----------
    bucket : str
        Its name.
    queues : mapping of str to str
        Their names in the template by their names in the calls.
    event_bus : str
        Its name.
    state_machine : str
        Its ARN.
    """

    bucket: str
    queues: Mapping[str, str]
    event_bus: str
    state_machine: str


class UnknownCall(LookupError):
    """The table below lacks a call: look up what it needs, and add it."""


def needs(operation: str, parameters: Mapping[str, Any], place: Place) -> list[Need]:
    """Return what IAM requires for an API call.

    Parameters
    ----------
    operation : str
        Service and operation as botocore names them, such as ``s3.GetObject``.
    parameters : mapping
        The parameters of the call.
    place : Place

    Notes
    -----
    From the Service Authorization Reference: "Actions, resources, and condition keys" for Amazon S3,
    Amazon SQS, Amazon EventBridge, AWS Step Functions and AWS Lambda.
    """
    if operation in ON_OBJECTS:
        resource = f"{_bucket(parameters, place)}/{parameters['Key']}"
        action = ON_OBJECTS[operation]
        if parameters.get("VersionId"):
            action = f"{action}Version"
        return [Need(action, resource)]
    if operation in ON_BUCKETS:
        return [Need(ON_BUCKETS[operation], _bucket(parameters, place))]
    if operation in ON_QUEUES:
        return [Need(ON_QUEUES[operation], _queue(parameters, place))]
    if operation == "events.PutEvents":
        buses = {entry.get("EventBusName", "default") for entry in parameters["Entries"]}
        return [Need("events:PutEvents", _bus(name, place)) for name in sorted(buses)]
    if operation == "s3.DeleteObjects":
        keys = [each["Key"] for each in parameters["Delete"]["Objects"]]
        return [Need("s3:DeleteObject", f"{_bucket(parameters, place)}/{key}") for key in keys]
    if operation == "stepfunctions.StartExecution":
        arn = str(parameters["stateMachineArn"])
        return [Need("states:StartExecution", STATE_MACHINE if arn == place.state_machine else arn)]
    if operation == "lambda.Invoke":
        name = str(parameters["FunctionName"])
        own = [resource for part, resource in FUNCTIONS.items() if re.search(part, name)]
        return [Need("lambda:InvokeFunction", each) for each in own or [name]]
    raise UnknownCall(operation)


#: The state machine of the template, as policies name it.
STATE_MACHINE = (
    "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"
    ":stateMachine:${AWS::StackName}-round"
)

#: The functions of the template by the names that `local.step_functions` and moto give them.
FUNCTIONS = {
    r"^main$|AggregatorFunction.*:live$": "${AggregatorFunction.Alias}",
    r"^worker$|WorkerFunction[^:]*$": "${WorkerFunction.Arn}",
}


#: The queue of the mask keeper, as policies name it. In the embedded cloud its name begins with
#: mask-keeper.
MASK_KEEPER_QUEUE = "arn:${AWS::Partition}:sqs:${AWS::Region}:${Account}:${Name}-requests"


def _bus(name: str, place: Place) -> str:
    own = "${EventBus}" if name == place.event_bus else name
    return f"arn:${{AWS::Partition}}:events:${{AWS::Region}}:${{AWS::AccountId}}:event-bus/{own}"


def _queue(parameters: Mapping[str, Any], place: Place) -> str:
    name = str(parameters.get("QueueName") or parameters["QueueUrl"].rsplit("/", 1)[-1])
    if name.startswith("mask-keeper-"):
        return MASK_KEEPER_QUEUE
    return f"${{{place.queues[name]}.Arn}}" if name in place.queues else name


def _bucket(parameters: Mapping[str, Any], place: Place) -> str:
    bucket = str(parameters["Bucket"])
    return "${Bucket.Arn}" if bucket == place.bucket else f"arn:aws:s3:::{bucket}"


ON_OBJECTS = {
    "s3.GetObject": "s3:GetObject",
    "s3.HeadObject": "s3:GetObject",
    "s3.PutObject": "s3:PutObject",
    "s3.CreateMultipartUpload": "s3:PutObject",
    "s3.UploadPart": "s3:PutObject",
    "s3.CompleteMultipartUpload": "s3:PutObject",
    "s3.AbortMultipartUpload": "s3:AbortMultipartUpload",
    "s3.ListParts": "s3:ListMultipartUploadParts",
    "s3.DeleteObject": "s3:DeleteObject",
}

ON_BUCKETS = {
    "s3.ListObjectsV2": "s3:ListBucket",
    "s3.HeadBucket": "s3:ListBucket",
    "s3.ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3.GetBucketNotificationConfiguration": "s3:GetBucketNotification",
}

ON_QUEUES = {
    "sqs.ChangeMessageVisibility": "sqs:ChangeMessageVisibility",
    "sqs.ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs.SendMessage": "sqs:SendMessage",
    "sqs.SendMessageBatch": "sqs:SendMessage",
    "sqs.ReceiveMessage": "sqs:ReceiveMessage",
    "sqs.DeleteMessage": "sqs:DeleteMessage",
    "sqs.GetQueueAttributes": "sqs:GetQueueAttributes",
    "sqs.GetQueueUrl": "sqs:GetQueueUrl",
}


def allowed(template: Template, role: str) -> list[Need]:
    """Return the actions on resources that a role allows the code of its function or state machine."""
    (policy,) = [
        one["PolicyDocument"]
        for one in template["Resources"][role]["Properties"]["Policies"]
        if one["PolicyName"] in ("function-code", "tasks")
    ]
    return grants(policy["Statement"])


def grants(
    statements: list[dict[str, Any]], arguments: Mapping[str, Any] | None = None
) -> list[Need]:
    """Return the actions on resources that statements allow, including those under a condition.

    Parameters
    ----------
    statements
    arguments
        What a nested template is given for its parameters.
    """
    return [
        Need(action, _written((arguments or {}).get(resource.get("Ref"), resource)))
        for statement in flat(statements)
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


def permits(grant: Need, need: Need) -> bool:
    """Return whether an allowed action on a resource, which may have wildcards, covers a need."""
    return grant.action == need.action and fnmatchcase(need.resource, grant.resource)


def _written(resource: Any) -> str:
    if isinstance(resource, str):
        return resource
    if "Fn::If" in resource:
        return _written(resource["Fn::If"][1])
    if "Fn::GetAtt" in resource:
        return "${" + ".".join(resource["Fn::GetAtt"]) + "}"
    if "Ref" in resource:
        return f"${{{resource['Ref']}}}"
    return str(_listed(resource["Fn::Sub"])[0])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
