"""What a function's role allows, and whether an AWS call is within it.

Resources are compared as the template writes them: an object of the function's bucket is
``${Bucket.Arn}/key``, whatever the bucket is called where the call was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.deploy.habits import Template, written_out

Resource = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Need:
    """An action on a resource that an AWS call must be allowed."""

    action: str
    resource: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """The functions' bucket, queues and event bus where calls are recorded.

    Parameters
    ----------
    bucket : str
        Its name.
    queues : mapping of str to str
        What the template calls them, by their names here.
    event_bus : str
        Its name.
    """

    bucket: str
    queues: Mapping[str, str]
    event_bus: str


class UnknownCall(LookupError):
    """A call that the table below does not know: look up what it needs, and add it."""


def needs(operation: str, parameters: Mapping[str, Any], place: Place) -> list[Need]:
    """What IAM asks for an API call.

    Parameters
    ----------
    operation : str
        Service and operation as botocore names them, such as ``s3.GetObject``.
    parameters : mapping
        The call's.
    place : Place

    Notes
    -----
    From the Service Authorization Reference: "Actions, resources, and condition keys" for Amazon S3,
    Amazon SQS and Amazon EventBridge.
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
    raise UnknownCall(operation)


def _bus(name: str, place: Place) -> str:
    own = "${EventBus}" if name == place.event_bus else name
    return f"arn:${{AWS::Partition}}:events:${{AWS::Region}}:${{AWS::AccountId}}:event-bus/{own}"


def _queue(parameters: Mapping[str, Any], place: Place) -> str:
    name = str(parameters.get("QueueName") or parameters["QueueUrl"].rsplit("/", 1)[-1])
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
    "sqs.SendMessage": "sqs:SendMessage",
    "sqs.SendMessageBatch": "sqs:SendMessage",
    "sqs.ReceiveMessage": "sqs:ReceiveMessage",
    "sqs.DeleteMessage": "sqs:DeleteMessage",
    "sqs.GetQueueAttributes": "sqs:GetQueueAttributes",
    "sqs.GetQueueUrl": "sqs:GetQueueUrl",
}


def allowed(template: Template, role: str) -> list[Need]:
    """The actions on resources that a role's policy *what-the-code-calls* allows."""
    (policy,) = [
        one["PolicyDocument"]
        for one in template["Resources"][role]["Properties"]["Policies"]
        if one["PolicyName"] == "what-the-code-calls"
    ]
    return grants(policy["Statement"])


def grants(statements: list[dict[str, Any]]) -> list[Need]:
    """The actions on resources that statements allow, those under a condition among them."""
    return [
        Need(action, _written(resource))
        for statement in written_out(statements)
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


def permits(grant: Need, need: Need) -> bool:
    """Whether an allowed action on a resource, which may have wildcards, is what a call needs."""
    return grant.action == need.action and fnmatchcase(need.resource, grant.resource)


def _written(resource: Any) -> str:
    if isinstance(resource, str):
        return resource
    if "Fn::GetAtt" in resource:
        return "${" + ".".join(resource["Fn::GetAtt"]) + "}"
    return str(_listed(resource["Fn::Sub"])[0])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
