"""The templates keep each practice, and each practice detects a violation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy import practices
from tests.deploy.practices import Practice, Template
from tests.deploy.stack import APPLICATION, nested, template

FUNCTION = "template.yaml/Resources/AggregatorFunction/Properties"
ALARM = "infra/observability.yaml/Resources/ErrorsAlarm/Properties"
STATEMENT = "Resources/AggregatorRole/Properties/Policies/0/PolicyDocument/Statement/0"

#: For each practice, a place in a template, the value that a careless edit would put there (`None`
#: removes it), and what the practice then reports.
VIOLATIONS: list[tuple[Practice, str, Any, str]] = [
    (
        practices.functions_log_to_a_group_of_the_stack,
        f"{FUNCTION}/LoggingConfig/LogGroup",
        None,
        "AggregatorFunction",
    ),
    (
        practices.log_groups_have_a_retention,
        "template.yaml/Resources/AggregatorLogs/Properties/RetentionInDays",
        None,
        "AggregatorLogs",
    ),
    (
        practices.asynchronous_failures_are_kept,
        f"{FUNCTION}/EventInvokeConfig/DestinationConfig/OnFailure",
        None,
        "AggregatorFunction",
    ),
    (
        practices.no_function_has_a_dead_letter_queue,
        f"{FUNCTION}/DeadLetterQueue",
        {"Type": "SQS"},
        "AggregatorFunction",
    ),
    (practices.alarms_notify_the_topic, f"{ALARM}/AlarmActions", None, "ErrorsAlarm"),
    (practices.alarms_can_fire, f"{ALARM}/MetricName", "NumberOfMessagesSent", "ErrorsAlarm"),
    (practices.alarms_ignore_missing_data, f"{ALARM}/TreatMissingData", "breaching", "ErrorsAlarm"),
    (
        practices.sources_report_single_failures,
        f"{FUNCTION}/Events/Uploads/Properties/FunctionResponseTypes",
        None,
        "AggregatorFunction.Uploads",
    ),
    (
        practices.consumed_queues_have_a_dead_letter_queue,
        "template.yaml/Resources/UploadQueue/Properties/RedrivePolicy",
        None,
        "UploadQueue",
    ),
    (
        practices.consumed_queues_derive_their_visibility,
        "template.yaml/Resources/UploadQueue/Properties/VisibilityTimeout",
        1800,
        "UploadQueue",
    ),
    (
        practices.settings_reach_the_alias,
        f"{FUNCTION}/Environment/Variables/FORGOTTEN",
        {"Ref": "SweepSchedule"},
        "AggregatorFunction.SweepSchedule",
    ),
    (
        practices.settings_reach_the_alias,
        f"{FUNCTION}/AutoPublishAliasAllProperties",
        None,
        "AggregatorFunction",
    ),
    (
        practices.roles_name_their_resources,
        f"template.yaml/{STATEMENT}/Resource",
        "*",
        "AggregatorRole.ReadWeights",
    ),
    (
        practices.roles_name_their_actions,
        f"template.yaml/{STATEMENT}/Action",
        "s3:Get*",
        "AggregatorRole.ReadWeights",
    ),
    (
        practices.parameters_are_described,
        "infra/database.yaml/Parameters/VpcId/Description",
        None,
        "VpcId",
    ),
    (
        practices.parameters_are_limited,
        "template.yaml/Parameters/MemoryMb/MaxValue",
        None,
        "MemoryMb",
    ),
    (
        practices.parameters_are_grouped,
        "template.yaml/Parameters/Forgotten",
        {"Type": "String"},
        "Forgotten",
    ),
    (
        practices.parameters_are_used,
        "infra/network.yaml/Parameters/Forgotten",
        {"Type": "String"},
        "Forgotten",
    ),
    (
        practices.outputs_are_described,
        "template.yaml/Outputs/BucketName/Description",
        None,
        "BucketName",
    ),
    (
        practices.data_is_retained,
        "template.yaml/Resources/Bucket/DeletionPolicy",
        "Delete",
        "Bucket",
    ),
    (
        practices.data_is_retained,
        "template.yaml/Resources/Database/DeletionPolicy",
        None,
        "Database",
    ),
    (
        practices.suppressions_are_justified,
        "infra/observability.yaml/Resources/Topic/Metadata/checkov/skip/0/comment",
        "false positive",
        "Topic.CKV_AWS_26",
    ),
]


def edited(path: str, value: Any) -> Template:
    """Return a template with another value, or none, in one place."""
    file, steps = path.split(".yaml/")
    document = template(f"{file}.yaml")
    *parents, last = steps.split("/")
    place: Any = document
    for step in parents:
        place = place[int(step) if isinstance(place, list) else step]
    key = int(last) if isinstance(place, list) else last
    if value is None:
        del place[key]
    else:
        place[key] = value
    return document


@pytest.mark.parametrize(
    "practice", dict.fromkeys(row[0] for row in VIOLATIONS), ids=lambda each: each.__name__
)
def test_the_templates_keep_the_practice(practice: Practice) -> None:
    """Nothing in any template violates the practice."""
    for file in (APPLICATION, *nested().values()):
        assert practice(template(file)) == [], file


@pytest.mark.parametrize(
    ("practice", "path", "value", "reported"),
    VIOLATIONS,
    ids=[row[0].__name__ for row in VIOLATIONS],
)
def test_the_practice_detects_a_violation(
    practice: Practice, path: str, value: Any, reported: str
) -> None:
    """A careless edit is detected and named."""
    assert reported in practice(edited(path, value))


def test_every_practice_is_tested() -> None:
    """Every function of the module that returns violations is in the table above."""
    functions = {
        one
        for one in vars(practices).values()
        if getattr(one, "__annotations__", {}).get("return") == "list[str]"
    }
    assert functions == {row[0] for row in VIOLATIONS}
