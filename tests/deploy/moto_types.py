"""The resource types that moto's CloudFormation lacks, or supports only in part.

Each is created with the API call that CloudFormation makes, through boto3, so botocore checks the names
and types of the properties.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import boto3
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel

Properties = dict[str, Any]
#: The values of `Ref`, and of `Fn::GetAtt` by name.
Created = tuple[str, dict[str, Any]]
Creator = Callable[[str, Properties], Created]


class ApiResource(CloudFormationModel):
    """A resource that an API call creates."""

    creator: Creator
    resource_type = ""

    def __init__(self, created: Created) -> None:
        self.physical_resource_id, self._attributes = created

    @staticmethod
    def cloudformation_name_type() -> str:
        """Return that CloudFormation names none of these types."""
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Return True: a missing attribute fails when it is read."""
        return True

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        """Return the value of `Fn::GetAtt`."""
        return self._attributes[attribute_name]


def register() -> None:
    """Register the types of this module with moto; a second call changes nothing."""
    known = {model.cloudformation_type() for model in ApiResource.__subclasses__()}
    for resource_type, creator in CREATORS.items():
        if resource_type not in known:
            _subclass(resource_type, creator)
    for model in ApiResource.__subclasses__():
        parsing.get_model_map()[model.cloudformation_type()] = model
        parsing.get_name_type_map()[model.cloudformation_type()] = ""


def _subclass(resource_type: str, creator: Creator) -> type[ApiResource]:
    @classmethod  # type: ignore[misc]  # It becomes a method of the type below.
    def create(
        cls: type[ApiResource],
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> ApiResource:
        return cls(creator(resource_name, _without_none(cloudformation_json.get("Properties", {}))))

    return type(
        resource_type.replace("::", ""),
        (ApiResource,),
        {
            "cloudformation_type": staticmethod(lambda: resource_type),
            "create_from_cloudformation_json": create,
        },
    )


def _without_none(value: Any) -> Any:
    """Remove the values of `AWS::NoValue`."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value


def call(service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    """Make an API call, with numbers and booleans parsed from strings as CloudFormation does."""
    client: Any = boto3.client(service)  # type: ignore[call-overload]
    shape = client.meta.service_model.operation_model(
        client.meta.method_to_api_mapping[operation]
    ).input_shape
    answer: dict[str, Any] = getattr(client, operation)(**_typed(shape, parameters))
    return answer


def _typed(shape: Any, value: Any) -> Any:
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        members = shape.members
        return {k: _typed(members[k], v) if k in members else v for k, v in value.items()}
    if kind == "list" and isinstance(value, list):
        return [_typed(shape.member, item) for item in value]
    if kind == "map" and isinstance(value, dict):
        return {key: _typed(shape.value, item) for key, item in value.items()}
    if kind in ("integer", "long") and isinstance(value, str):
        return int(value)
    if kind in ("float", "double") and isinstance(value, str | int):
        return float(value)
    if kind == "boolean" and isinstance(value, str):
        return {"true": True, "false": False}[value]
    if kind == "string" and isinstance(value, int | float):
        return str(value)
    return value


def _bucket(name: str, properties: Properties) -> Created:
    bucket = properties.pop("BucketName", name.lower())
    region = boto3.session.Session().region_name
    call(
        "s3",
        "create_bucket",
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": region},
    )
    for key, (operation, parameter, to_api) in BUCKET_PARTS.items():
        if key in properties:
            call("s3", operation, Bucket=bucket, **{parameter: to_api(properties.pop(key))})
    if properties:
        raise ValueError(f"unsupported properties of a bucket: {sorted(properties)}")
    return bucket, {"Arn": f"arn:aws:s3:::{bucket}"}


def _encryption(given: Properties) -> Properties:
    rules = given["ServerSideEncryptionConfiguration"]
    return {
        "Rules": [
            {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
            for rule in rules
        ]
    }


def _lifecycle(given: Properties) -> Properties:
    rules = []
    for rule in given["Rules"]:
        api = {"ID": rule.pop("Id"), "Filter": {"Prefix": rule.pop("Prefix", "")}}
        if "ExpirationInDays" in rule:
            api["Expiration"] = {"Days": rule.pop("ExpirationInDays")}
        rules.append(api | rule)
    return {"Rules": rules}


def _notification(given: Properties) -> Properties:
    return {
        "QueueConfigurations": [
            {
                "QueueArn": one["Queue"],
                "Events": [one["Event"]],
                "Filter": {"Key": {"FilterRules": one["Filter"]["S3Key"]["Rules"]}},
            }
            for one in given["QueueConfigurations"]
        ]
    }


def _logging(given: Properties) -> Properties:
    return {
        "LoggingEnabled": {
            "TargetBucket": given["DestinationBucketName"],
            "TargetPrefix": given["LogFilePrefix"],
        }
    }


def _as_is(given: Properties) -> Properties:
    return given


BUCKET_PARTS: dict[str, tuple[str, str, Callable[[Properties], Properties]]] = {
    "PublicAccessBlockConfiguration": (
        "put_public_access_block",
        "PublicAccessBlockConfiguration",
        _as_is,
    ),
    "OwnershipControls": ("put_bucket_ownership_controls", "OwnershipControls", _as_is),
    "BucketEncryption": ("put_bucket_encryption", "ServerSideEncryptionConfiguration", _encryption),
    "VersioningConfiguration": ("put_bucket_versioning", "VersioningConfiguration", _as_is),
    "LoggingConfiguration": ("put_bucket_logging", "BucketLoggingStatus", _logging),
    "LifecycleConfiguration": (
        "put_bucket_lifecycle_configuration",
        "LifecycleConfiguration",
        _lifecycle,
    ),
    "NotificationConfiguration": (
        "put_bucket_notification_configuration",
        "NotificationConfiguration",
        _notification,
    ),
}


def _bucket_policy(name: str, properties: Properties) -> Created:
    policy = json.dumps(properties["PolicyDocument"])
    call("s3", "put_bucket_policy", Bucket=properties["Bucket"], Policy=policy)
    return name, {}


def _queue_policy(name: str, properties: Properties) -> Created:
    policy = json.dumps(properties["PolicyDocument"])
    for url in properties["Queues"]:
        call("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"Policy": policy})
    return name, {}


def _topic_policy(name: str, properties: Properties) -> Created:
    policy = json.dumps(properties["PolicyDocument"])
    for arn in properties["Topics"]:
        call(
            "sns",
            "set_topic_attributes",
            TopicArn=arn,
            AttributeName="Policy",
            AttributeValue=policy,
        )
    return name, {}


def _subscription(_name: str, properties: Properties) -> Created:
    return call("sns", "subscribe", **properties)["SubscriptionArn"], {}


def _alarm(name: str, properties: Properties) -> Created:
    call("cloudwatch", "put_metric_alarm", AlarmName=name, **properties)
    (alarm,) = call("cloudwatch", "describe_alarms", AlarmNames=[name])["MetricAlarms"]
    return name, {"Arn": alarm["AlarmArn"]}


def _alias(_name: str, properties: Properties) -> Created:
    arn = call("lambda", "create_alias", **properties)["AliasArn"]
    return arn, {"AliasArn": arn}


def _version(_name: str, properties: Properties) -> Created:
    made = call("lambda", "publish_version", **properties)
    return made["FunctionArn"], {"Version": made["Version"]}


def _event_source_mapping(_name: str, properties: Properties) -> Created:
    # Disabled, since moto would pass each message to the function in Docker.
    made = call("lambda", "create_event_source_mapping", Enabled=False, **properties)
    return made["UUID"], {"Id": made["UUID"]}


def _event_invoke_config(name: str, properties: Properties) -> Created:
    call("lambda", "put_function_event_invoke_config", **properties)
    return name, {}


def _schedule_group(_name: str, properties: Properties) -> Created:
    arn = call("scheduler", "create_schedule_group", **properties)["ScheduleGroupArn"]
    return properties["Name"], {"Arn": arn}


def _schedule(name: str, properties: Properties) -> Created:
    arn = call("scheduler", "create_schedule", Name=name[:64], **properties)["ScheduleArn"]
    return name[:64], {"Arn": arn}


def _security_group_egress(name: str, properties: Properties) -> Created:
    call(
        "ec2",
        "authorize_security_group_egress",
        GroupId=properties["GroupId"],
        IpPermissions=[
            {
                "IpProtocol": properties["IpProtocol"],
                "FromPort": properties["FromPort"],
                "ToPort": properties["ToPort"],
                "UserIdGroupPairs": [
                    {
                        "GroupId": properties["DestinationSecurityGroupId"],
                        "Description": properties["Description"],
                    }
                ],
            }
        ],
    )
    return name, {}


def _cluster_parameter_group(name: str, properties: Properties) -> Created:
    settings = properties.pop("Parameters")
    name = name.lower()
    call(
        "rds",
        "create_db_cluster_parameter_group",
        DBClusterParameterGroupName=name,
        DBParameterGroupFamily=properties["Family"],
        Description=properties["Description"],
    )
    call(
        "rds",
        "modify_db_cluster_parameter_group",
        DBClusterParameterGroupName=name,
        Parameters=[
            {"ParameterName": key, "ParameterValue": value, "ApplyMethod": "immediate"}
            for key, value in settings.items()
        ],
    )
    return name, {}


def _cluster(name: str, properties: Properties) -> Created:
    cluster = call("rds", "create_db_cluster", DBClusterIdentifier=name.lower(), **properties)
    made = cluster["DBCluster"]
    return name.lower(), {
        "DBClusterArn": made["DBClusterArn"],
        "DBClusterResourceId": made["DbClusterResourceId"],
        "Endpoint.Address": made["Endpoint"],
        "MasterUserSecret.SecretArn": made["MasterUserSecret"]["SecretArn"],
    }


def _subnet_group(name: str, properties: Properties) -> Created:
    call("rds", "create_db_subnet_group", DBSubnetGroupName=name.lower(), **properties)
    return name.lower(), {}


def _instance(name: str, properties: Properties) -> Created:
    cluster = properties["DBClusterIdentifier"]
    (found,) = call("rds", "describe_db_clusters", DBClusterIdentifier=cluster)["DBClusters"]
    # moto does not take the version from the cluster, as RDS does.
    version = found["EngineVersion"]
    identifier = name.lower()
    call(
        "rds",
        "create_db_instance",
        DBInstanceIdentifier=identifier,
        EngineVersion=version,
        **properties,
    )
    return identifier, {}


def _proxy(_name: str, properties: Properties) -> Created:
    # moto requires this parameter, which is not needed with IAM from end to end.
    made = call("rds", "create_db_proxy", Auth=[{"IAMAuth": "REQUIRED"}], **properties)["DBProxy"]
    return made["DBProxyName"], {
        "DBProxyArn": made["DBProxyArn"],
        "Endpoint": made["Endpoint"],
    }


def _proxy_targets(name: str, properties: Properties) -> Created:
    call(
        "rds",
        "register_db_proxy_targets",
        DBProxyName=properties["DBProxyName"],
        TargetGroupName=properties["TargetGroupName"],
        DBClusterIdentifiers=properties["DBClusterIdentifiers"],
    )
    return name, {}


def _http_api(name: str, properties: Properties) -> Created:
    # moto cannot import the document that SAM writes.
    made = call("apigatewayv2", "create_api", Name=name, ProtocolType="HTTP")
    (methods,) = properties["Body"]["paths"].values()
    (method,) = methods.values()
    if method["x-amazon-apigateway-integration"]["payloadFormatVersion"] != "2.0":
        raise ValueError("the handler expects events of payload format 2.0")
    return made["ApiId"], {"ApiEndpoint": made["ApiEndpoint"]}


def _http_stage(_name: str, properties: Properties) -> Created:
    made = call("apigatewayv2", "create_stage", **properties)
    return made["StageName"], {}


#: Requests to the functions of custom resources, oldest first; moto would run them in Docker.
custom_requests: list[Properties] = []


def _nested_stack(_name: str, properties: Properties) -> Created:
    client = boto3.client("cloudformation")
    stack = client.create_stack(
        StackName=f"nested-{token_hex(4)}",  # short, since moto derives the names of resources from it
        TemplateURL=properties["TemplateURL"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": str(value)}
            for key, value in properties["Parameters"].items()
        ],
    )["StackId"]
    (created,) = client.describe_stacks(StackName=stack)["Stacks"]
    return stack, {f"Outputs.{o['OutputKey']}": o["OutputValue"] for o in created["Outputs"]}


def _state_machine(_name: str, properties: Properties) -> Created:
    # moto ignores the location of a definition, and substitutes nothing.
    place = properties["DefinitionS3Location"]
    definition = boto3.client("s3").get_object(Bucket=place["Bucket"], Key=place["Key"])["Body"]
    text = definition.read().decode()
    for placeholder, value in properties["DefinitionSubstitutions"].items():
        text = text.replace(f"${{{placeholder}}}", value)
    arn = call(
        "stepfunctions",
        "create_state_machine",
        name=properties["StateMachineName"],
        type=properties["StateMachineType"],
        roleArn=properties["RoleArn"],
        # moto knows no Express children.
        definition=text.replace("EXPRESS", "STANDARD"),
    )["stateMachineArn"]
    return arn, {"Arn": arn}


def _custom(name: str, properties: Properties) -> Created:
    custom_requests.append(properties)
    return name, {}


def _secret(name: str, properties: Properties) -> Created:
    password = call(
        "secretsmanager", "get_random_password", **properties.pop("GenerateSecretString")
    )
    secret = call(
        "secretsmanager",
        "create_secret",
        Name=f"{name}-{token_hex(4)}",
        SecretString=password["RandomPassword"],
        **properties,
    )
    return secret["ARN"], {}


CREATORS: dict[str, Creator] = {
    "AWS::CloudFormation::CustomResource": _custom,
    "AWS::CloudFormation::Stack": _nested_stack,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::EC2::SecurityGroupEgress": _security_group_egress,
    "AWS::Lambda::Alias": _alias,
    "AWS::Lambda::EventInvokeConfig": _event_invoke_config,
    "AWS::Lambda::EventSourceMapping": _event_source_mapping,
    "AWS::Lambda::Version": _version,
    "AWS::RDS::DBCluster": _cluster,
    "AWS::RDS::DBClusterParameterGroup": _cluster_parameter_group,
    "AWS::RDS::DBInstance": _instance,
    "AWS::ApiGatewayV2::Api": _http_api,
    "AWS::ApiGatewayV2::Stage": _http_stage,
    "AWS::RDS::DBProxy": _proxy,
    "AWS::RDS::DBProxyTargetGroup": _proxy_targets,
    "AWS::RDS::DBSubnetGroup": _subnet_group,
    "AWS::S3::Bucket": _bucket,
    "AWS::S3::BucketPolicy": _bucket_policy,
    "AWS::SecretsManager::Secret": _secret,
    "AWS::SNS::Subscription": _subscription,
    "AWS::SNS::TopicPolicy": _topic_policy,
    "AWS::SQS::QueuePolicy": _queue_policy,
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::Scheduler::ScheduleGroup": _schedule_group,
    "AWS::StepFunctions::StateMachine": _state_machine,
}
