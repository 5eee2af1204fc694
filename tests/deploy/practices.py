"""Practices that every template keeps: each function returns the names of what violates one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Template = dict[str, Any]
Practice = Callable[[Template], list[str]]


def of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and properties of each resource of one type."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource.get("Properties", {})


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the IAM statements of roles and managed policies, in either branch of a condition."""
    for name, role in of_type(template, "AWS::IAM::Role"):
        for policy in role.get("Policies", ()):
            yield from ((name, one) for one in flat(policy["PolicyDocument"]["Statement"]))
    for name, policy in of_type(template, "AWS::IAM::ManagedPolicy"):
        yield from ((name, one) for one in policy["PolicyDocument"]["Statement"])


def flat(statements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield statements, including those in a branch of ``Fn::If``."""
    for statement in statements:
        if "Fn::If" in statement:
            yield from (branch for branch in statement["Fn::If"][1:] if "Effect" in branch)
        else:
            yield statement


def functions_log_to_a_group_of_the_stack(template: Template) -> list[str]:
    """A log group that Lambda creates by itself is kept forever."""
    groups = {name for name, _ in of_type(template, "AWS::Logs::LogGroup")}
    return [
        name
        for name, function in of_type(template, "AWS::Serverless::Function")
        if function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref") not in groups
    ]


def log_groups_have_a_retention(template: Template) -> list[str]:
    """Logs are deleted after some time."""
    groups = of_type(template, "AWS::Logs::LogGroup")
    return [name for name, group in groups if "RetentionInDays" not in group]


def asynchronous_failures_are_kept(template: Template) -> list[str]:
    """Nobody waits for the result of what a schedule or CloudFormation invokes."""
    functions = dict(of_type(template, "AWS::Serverless::Function"))
    invoked = {
        properties["Target"]["Arn"]["Ref"].split(".")[0]
        for _, properties in of_type(template, "AWS::Scheduler::Schedule")
    } | {
        resource["Properties"]["ServiceToken"]["Fn::GetAtt"][0]
        for resource in template["Resources"].values()
        if resource["Type"].startswith("Custom::")
    }
    return sorted(
        name
        for name in invoked
        if "OnFailure"
        not in functions[name].get("EventInvokeConfig", {}).get("DestinationConfig", {})
    )


def no_function_has_a_dead_letter_queue(template: Template) -> list[str]:
    """The dead-letter queue of a function serves asynchronous invocations, never those of SQS."""
    functions = of_type(template, "AWS::Serverless::Function")
    return [name for name, function in functions if "DeadLetterQueue" in function]


def alarms_notify_the_topic(template: Template) -> list[str]:
    """An alarm notifies the topic of the stack when it fires and when it ends."""
    topics = [name for name, _ in of_type(template, "AWS::SNS::Topic")]
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        for actions in ("AlarmActions", "OKActions")
        if [action.get("Ref") for action in alarm.get(actions, ())] != topics
    ]


def alarms_can_fire(template: Template) -> list[str]:
    """A redrive does not count as a sent message; the number of waiting messages shows it."""
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        if alarm["MetricName"] == "NumberOfMessagesSent"
    ]


def alarms_ignore_missing_data(template: Template) -> list[str]:
    """Most of the time nothing runs, and nothing is measured."""
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        if alarm.get("TreatMissingData") != "notBreaching"
    ]


def _queue_events(template: Template) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the name, the function and the properties of each event source that is a queue."""
    for name, function in of_type(template, "AWS::Serverless::Function"):
        for event_name, event in function.get("Events", {}).items():
            if event["Type"] == "SQS":
                yield f"{name}.{event_name}", function, event["Properties"]


def sources_report_single_failures(template: Template) -> list[str]:
    """One bad message does not return the whole batch to the queue."""
    return [
        name
        for name, _, event in _queue_events(template)
        if event.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]
    ]


def consumed_queues_have_a_dead_letter_queue(template: Template) -> list[str]:
    """A queue that a function consumes sets aside what cannot be handled."""
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    consumed = {event["Queue"]["Fn::GetAtt"][0] for _, _, event in _queue_events(template)}
    return sorted(name for name in consumed if "RedrivePolicy" not in queues[name])


def consumed_queues_derive_their_visibility(template: Template) -> list[str]:
    """AWS recommends six times the function's timeout, which is looked up, not repeated."""
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    return [
        event["Queue"]["Fn::GetAtt"][0]
        for _, function, event in _queue_events(template)
        if queues[event["Queue"]["Fn::GetAtt"][0]].get("VisibilityTimeout")
        != {"Fn::FindInMap": ["Timeout", function["Timeout"], "Visibility"]}
    ]


#: Parameters that a version does not depend on: its concurrency and its event source. The host of a
#: database is represented by its resource id.
NOT_OF_A_VERSION = {
    "ReservedConcurrency",
    "BatchWindowSeconds",
    "MaxConcurrency",
    "ExistingDatabaseHost",
}

#: The parameters behind conditions, and behind outputs of nested stacks.
BEHIND = {
    "HasEventBus": "EventBus",
    "HasQueueEndpoint": "EndpointZones",
    "HasSnapStart": "SnapStart",
    "HasTracing": "Tracing",
    "HasApi": "ClientApi",
    "HasWorkers": "MaxFunctions",
    "Database.Outputs.PooledHost": "DatabaseProxy",
    "Network.Outputs.SubnetIds": "ExistingVpc",
}


def settings_reach_the_alias(template: Template) -> list[str]:
    """A parameter reaches the alias through the description of the version.

    A new version is published when the code or the template changes. The value of a parameter is not
    considered, but a changed description replaces the version.
    """
    missing = []
    for name, function in of_type(template, "AWS::Serverless::Function"):
        if "AutoPublishAlias" in function:
            described = names_used(function.get("VersionDescription", {}))
            settings = {**function, **template["Globals"]["Function"], "Events": {}}
            used = names_used(settings) & (template["Parameters"].keys() - NOT_OF_A_VERSION)
            missing += [f"{name}.{parameter}" for parameter in sorted(used - described)]
        if "AutoPublishAlias" in function and not function.get("AutoPublishAliasAllProperties"):
            missing.append(name)
    return missing


def names_used(value: Any) -> set[str]:
    """Return what a value refers to by `Ref`, `Fn::Sub`, an output or a condition."""
    if isinstance(value, list):
        return set().union(*map(names_used, value))
    if not isinstance(value, dict):
        return set()
    if "Ref" in value:
        return {value["Ref"]}
    names = set().union(*map(names_used, value.values()))
    for text in _listed(value.get("Fn::Sub", []))[:1]:
        names |= set(re.findall(r"\$\{([A-Za-z]+)\}", text))
    behind = [*value.get("Fn::If", [])[:1], ".".join(map(str, value.get("Fn::GetAtt", [])))]
    return names | {BEHIND[each] for each in behind if each in BEHIND}


#: Services that grant these actions on all resources only.
NO_NARROWER_RESOURCE = ("ec2:", "xray:")


def roles_name_their_resources(template: Template) -> list[str]:
    """No action is allowed on all resources if the service supports anything narrower."""
    return [
        f"{name}.{statement['Sid']}"
        for name, statement in statements(template)
        if statement["Effect"] == "Allow"
        and statement["Resource"] == "*"
        and not all(
            action.startswith(NO_NARROWER_RESOURCE) for action in _listed(statement["Action"])
        )
    ]


def roles_name_their_actions(template: Template) -> list[str]:
    """No action is allowed by a wildcard."""
    return [
        f"{name}.{statement['Sid']}"
        for name, statement in statements(template)
        if statement["Effect"] == "Allow"
        and any("*" in one for one in _listed(statement["Action"]))
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def parameters_are_described(template: Template) -> list[str]:
    """`sam deploy --guided` shows the descriptions to the person who answers."""
    return [name for name, one in template["Parameters"].items() if not one.get("Description")]


def _interface(template: Template) -> list[dict[str, Any]]:
    """Return the groups of parameters; a nested template has none."""
    interface = template.get("Metadata", {}).get("AWS::CloudFormation::Interface", {})
    groups: list[dict[str, Any]] = interface.get("ParameterGroups", [])
    return groups


def parameters_are_limited(template: Template) -> list[str]:
    """A value that cannot work is refused before anything is created.

    The parameters of a nested template come from the application's, which have been checked.
    """
    return [
        name
        for name, one in template["Parameters"].items()
        if _interface(template)
        and one["Type"] != "CommaDelimitedList"
        and not {"AllowedValues", "AllowedPattern", "MaxLength"} & one.keys()
        and not {"MinValue", "MaxValue"} <= one.keys()
    ]


def parameters_are_grouped(template: Template) -> list[str]:
    """Each parameter is in one group of the interface, and every member of a group exists."""
    grouped = [name for group in _interface(template) for name in group["Parameters"]]
    if not grouped:
        return []
    missing = template["Parameters"].keys() ^ set(grouped)
    return sorted(missing | {name for name in grouped if grouped.count(name) > 1})


def parameters_are_used(template: Template) -> list[str]:
    """A parameter that nothing reads would be set without an effect."""
    used = {k: v for k, v in template.items() if k in ("Resources", "Conditions", "Outputs")}
    text = str(used | {"Globals": template.get("Globals", {})})
    return [
        name
        for name in template["Parameters"]
        if f"'Ref': '{name}'" not in text
        and f"${{{name}}}" not in text
        and f"'{name}'" not in str(template.get("Mappings"))
    ]


def outputs_are_described(template: Template) -> list[str]:
    """Each output says what it is."""
    return [name for name, one in template["Outputs"].items() if not one.get("Description")]


def data_is_retained(template: Template) -> list[str]:
    """Deleting the stack deletes neither weights nor rows, nor the network that the database needs."""
    retained = {
        "AWS::S3::Bucket": ("Retain", "Retain"),
        "AWS::RDS::DBCluster": ("Snapshot", "Snapshot"),
        "infra/database.yaml": ("RetainExceptOnCreate", "Retain"),
        "infra/network.yaml": ("RetainExceptOnCreate", "Retain"),
    }
    violations = []
    for name, resource in template["Resources"].items():
        kind = resource.get("Properties", {}).get("TemplateURL", resource["Type"])
        policies = (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy"))
        if kind in retained and policies != retained[kind]:
            violations.append(name)
    return violations


def suppressions_are_justified(template: Template) -> list[str]:
    """Each check that the security scan skips has a reason."""
    return [
        f"{name}.{skip['id']}"
        for name, resource in template["Resources"].items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", ())
        if len(skip.get("comment", "").split()) < 4
    ]
