"""The template keeps each habit, and each habit notices when it is broken."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy import habits
from tests.deploy.habits import Habit, Template
from tests.deploy.stack import template

#: For each habit, a place in the template, what a careless edit would put there (`None`: nothing),
#: and what the habit then names.
BROKEN: list[tuple[Habit, str, Any, str]] = [
    (
        habits.functions_log_to_a_group_of_the_stack,
        "Resources/AggregatorFunction/Properties/LoggingConfig/LogGroup",
        None,
        "AggregatorFunction",
    ),
    (
        habits.log_groups_forget,
        "Resources/AggregatorLogs/Properties/RetentionInDays",
        None,
        "AggregatorLogs",
    ),
    (
        habits.asynchronous_failures_go_somewhere,
        "Resources/AggregatorFunction/Properties/EventInvokeConfig/DestinationConfig/OnFailure",
        None,
        "AggregatorFunction",
    ),
    (
        habits.no_dead_letter_queue_that_does_nothing,
        "Resources/AggregatorFunction/Properties/DeadLetterQueue",
        {"Type": "SQS"},
        "AggregatorFunction",
    ),
    (
        habits.alarms_tell_somebody,
        "Resources/ErrorsAlarm/Properties/AlarmActions",
        None,
        "ErrorsAlarm",
    ),
    (
        habits.alarms_can_fire,
        "Resources/DeadLettersAlarm/Properties/MetricName",
        "NumberOfMessagesSent",
        "DeadLettersAlarm",
    ),
    (
        habits.alarms_rest_without_data,
        "Resources/ErrorsAlarm/Properties/TreatMissingData",
        "breaching",
        "ErrorsAlarm",
    ),
    (
        habits.sources_report_single_failures,
        "Resources/AggregatorFunction/Properties/Events/Uploads/Properties/FunctionResponseTypes",
        None,
        "AggregatorFunction.Uploads",
    ),
    (
        habits.fed_queues_give_up,
        "Resources/UploadQueue/Properties/RedrivePolicy",
        None,
        "UploadQueue",
    ),
    (
        habits.fed_queues_derive_their_visibility,
        "Resources/UploadQueue/Properties/VisibilityTimeout",
        1800,
        "UploadQueue",
    ),
    (
        habits.settings_reach_the_alias,
        "Resources/AggregatorFunction/Properties/Environment/Variables/FORGOTTEN",
        {"Ref": "SweepSchedule"},
        "AggregatorFunction.SweepSchedule",
    ),
    (
        habits.settings_reach_the_alias,
        "Resources/AggregatorFunction/Properties/AutoPublishAliasAllProperties",
        None,
        "AggregatorFunction",
    ),
    (
        habits.roles_name_their_resources,
        "Resources/AggregatorRole/Properties/Policies/0/PolicyDocument/Statement/0/Resource",
        "*",
        "AggregatorRole.ReadWeights",
    ),
    (
        habits.roles_name_their_actions,
        "Resources/AggregatorRole/Properties/Policies/0/PolicyDocument/Statement/0/Action",
        "s3:Get*",
        "AggregatorRole.ReadWeights",
    ),
    (habits.parameters_are_described, "Parameters/MemoryMb/Description", None, "MemoryMb"),
    (habits.parameters_are_limited, "Parameters/MemoryMb/MaxValue", None, "MemoryMb"),
    (
        habits.parameters_are_grouped,
        "Parameters/Forgotten",
        {"Type": "String"},
        "Forgotten",
    ),
    (habits.outputs_are_described, "Outputs/BucketName/Description", None, "BucketName"),
    (habits.what_holds_data_survives, "Resources/Bucket/DeletionPolicy", "Delete", "Bucket"),
    (
        habits.suppressions_are_justified,
        "Resources/Alarms/Metadata/checkov/skip/0/comment",
        "false positive",
        "Alarms.CKV_AWS_26",
    ),
]


def edited(path: str, value: Any) -> Template:
    """The template with another value, or none, in one place."""
    document = template()
    *parents, last = path.split("/")
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
    "habit", dict.fromkeys(row[0] for row in BROKEN), ids=lambda habit: habit.__name__
)
def test_the_template_keeps_the_habit(habit: Habit) -> None:
    """Nothing in the template breaks the habit."""
    assert habit(template()) == []


@pytest.mark.parametrize(
    ("habit", "path", "value", "named"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_the_habit_notices(habit: Habit, path: str, value: Any, named: str) -> None:
    """A careless edit is noticed, and what it broke is named."""
    assert named in habit(edited(path, value))


def test_every_habit_is_tried() -> None:
    """No rule of the module is left out of the table above."""
    rules = {
        one
        for one in vars(habits).values()
        if getattr(one, "__annotations__", {}).get("return") == "list[str]"
    }
    assert rules == {row[0] for row in BROKEN}
