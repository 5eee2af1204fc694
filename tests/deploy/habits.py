"""What every template here does, as rules: each gives the names of what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Template = dict[str, Any]
Habit = Callable[[Template], list[str]]


def of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and properties of the resources of one type."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource.get("Properties", {})


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """The IAM statements of roles and managed policies, under either branch of a condition."""
    for name, role in of_type(template, "AWS::IAM::Role"):
        for policy in role.get("Policies", ()):
            yield from ((name, one) for one in written_out(policy["PolicyDocument"]["Statement"]))
    for name, policy in of_type(template, "AWS::IAM::ManagedPolicy"):
        yield from ((name, one) for one in policy["PolicyDocument"]["Statement"])


def written_out(statements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Statements, those under a condition among them."""
    for statement in statements:
        if "Fn::If" in statement:
            yield from (branch for branch in statement["Fn::If"][1:] if "Effect" in branch)
        else:
            yield statement


def functions_log_to_a_group_of_the_stack(template: Template) -> list[str]:
    """A group that Lambda makes by itself keeps its lines for ever."""
    groups = {name for name, _ in of_type(template, "AWS::Logs::LogGroup")}
    return [
        name
        for name, function in of_type(template, "AWS::Serverless::Function")
        if function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref") not in groups
    ]


def log_groups_forget(template: Template) -> list[str]:
    """Log lines are deleted some day."""
    groups = of_type(template, "AWS::Logs::LogGroup")
    return [name for name, group in groups if "RetentionInDays" not in group]


def asynchronous_failures_go_somewhere(template: Template) -> list[str]:
    """What a schedule or CloudFormation invokes has nobody who waits for the answer."""
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


def no_dead_letter_queue_that_does_nothing(template: Template) -> list[str]:
    """A function's own dead-letter queue is for asynchronous invocations, never for SQS's."""
    functions = of_type(template, "AWS::Serverless::Function")
    return [name for name, function in functions if "DeadLetterQueue" in function]


def alarms_tell_somebody(template: Template) -> list[str]:
    """An alarm writes to a topic of the stack when it fires and when it is over."""
    topics = [name for name, _ in of_type(template, "AWS::SNS::Topic")]
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        for wired in ("AlarmActions", "OKActions")
        if [action.get("Ref") for action in alarm.get(wired, ())] != topics
    ]


def alarms_can_fire(template: Template) -> list[str]:
    """A redrive does not count as a message that was sent: the depth of the queue tells."""
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        if alarm["MetricName"] == "NumberOfMessagesSent"
    ]


def alarms_rest_without_data(template: Template) -> list[str]:
    """Nothing is measured while nothing runs, which is most of the time."""
    return [
        name
        for name, alarm in of_type(template, "AWS::CloudWatch::Alarm")
        if alarm.get("TreatMissingData") != "notBreaching"
    ]


def sources_report_single_failures(template: Template) -> list[str]:
    """One bad message does not bring back the whole batch."""
    return [
        f"{name}.{event_name}"
        for name, function in of_type(template, "AWS::Serverless::Function")
        for event_name, event in function.get("Events", {}).items()
        if event["Type"] == "SQS"
        and event["Properties"].get("FunctionResponseTypes") != ["ReportBatchItemFailures"]
    ]


def fed_queues_give_up(template: Template) -> list[str]:
    """A queue that feeds a function sets aside what cannot be handled."""
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    fed = {
        event["Properties"]["Queue"]["Fn::GetAtt"][0]
        for _, function in of_type(template, "AWS::Serverless::Function")
        for event in function.get("Events", {}).values()
        if event["Type"] == "SQS"
    }
    return sorted(name for name in fed if "RedrivePolicy" not in queues[name])


def fed_queues_derive_their_visibility(template: Template) -> list[str]:
    """AWS asks for six times the function's timeout: looked up from it, not written beside it."""
    functions = of_type(template, "AWS::Serverless::Function")
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    return [
        event["Properties"]["Queue"]["Fn::GetAtt"][0]
        for _, function in functions
        for event in function.get("Events", {}).values()
        if event["Type"] == "SQS"
        and queues[event["Properties"]["Queue"]["Fn::GetAtt"][0]].get("VisibilityTimeout")
        != {"Fn::FindInMap": ["Timeout", function["Timeout"], "Visibility"]}
    ]


#: Parameters of what is around a version: its concurrency, its event source; the host of a database
#: is told by the database's id.
NOT_OF_A_VERSION = {
    "ReservedConcurrency",
    "BatchWindowSeconds",
    "MaxConcurrency",
    "ExistingDatabaseHost",
    "ExistingSubnets",
}

#: What conditions that pick a value depend on.
BEHIND_CONDITIONS = {
    "Announces": "EventBus",
    "Proxied": "DatabaseProxy",
    "Sends": "EndpointZones",
    "Snapshots": "SnapStart",
    "Traced": "Tracing",
}


def settings_reach_the_alias(template: Template) -> list[str]:
    """A version is published when the code changes, or the template; a parameter must be told of in
    the version's description, which replaces the version when it changes."""
    silent = []
    for name, function in of_type(template, "AWS::Serverless::Function"):
        if "AutoPublishAlias" in function:
            described = names_used(function.get("VersionDescription", {}))
            settings = {**function, **template["Globals"]["Function"], "Events": {}}
            used = names_used(settings) & (template["Parameters"].keys() - NOT_OF_A_VERSION)
            silent += [f"{name}.{parameter}" for parameter in sorted(used - described)]
        if "AutoPublishAlias" in function and not function.get("AutoPublishAliasAllProperties"):
            silent.append(name)
    return silent


def names_used(value: Any) -> set[str]:
    """What a value refers to, by `Ref`, `Fn::Sub` or a condition."""
    if isinstance(value, list):
        return set().union(*map(names_used, value))
    if not isinstance(value, dict):
        return set()
    if "Ref" in value:
        return {value["Ref"]}
    names = set().union(*map(names_used, value.values()))
    for text in _listed(value.get("Fn::Sub", []))[:1]:
        names |= set(re.findall(r"\$\{([A-Za-z]+)\}", text))
    if "Fn::If" in value:
        names |= {BEHIND_CONDITIONS[c] for c in value["Fn::If"][:1] if c in BEHIND_CONDITIONS}
    return names


#: What EC2 and X-Ray grant on everything or not at all.
NO_NARROWER_RESOURCE = ("ec2:", "xray:")


def roles_name_their_resources(template: Template) -> list[str]:
    """Nothing is allowed on everything, where the service knows anything narrower."""
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
    """`sam deploy --guided` asks; whoever answers must know what."""
    return [name for name, one in template["Parameters"].items() if not one.get("Description")]


def parameters_are_limited(template: Template) -> list[str]:
    """A value that cannot work is refused before anything is made."""
    return [
        name
        for name, one in template["Parameters"].items()
        if one["Type"] != "CommaDelimitedList"
        and not {"AllowedValues", "AllowedPattern", "MaxLength"} & one.keys()
        and not {"MinValue", "MaxValue"} <= one.keys()
    ]


def parameters_are_grouped(template: Template) -> list[str]:
    """Each stands in one group of the interface, and no group names what is not there."""
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    missing = template["Parameters"].keys() ^ set(grouped)
    return sorted(missing | {name for name in grouped if grouped.count(name) > 1})


def outputs_are_described(template: Template) -> list[str]:
    """What is given back is explained."""
    return [name for name, one in template["Outputs"].items() if not one.get("Description")]


def what_holds_data_survives(template: Template) -> list[str]:
    """Deleting the stack deletes neither weights nor rows."""
    kept = {"AWS::S3::Bucket": "Retain", "AWS::RDS::DBCluster": "Snapshot"}
    return [
        name
        for name, resource in template["Resources"].items()
        for policy in ("DeletionPolicy", "UpdateReplacePolicy")
        if resource["Type"] in kept and resource.get(policy) != kept[resource["Type"]]
    ]


def suppressions_are_justified(template: Template) -> list[str]:
    """What the security scan is told to overlook says why."""
    return [
        f"{name}.{skip['id']}"
        for name, resource in template["Resources"].items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", ())
        if len(skip.get("comment", "").split()) < 4
    ]
