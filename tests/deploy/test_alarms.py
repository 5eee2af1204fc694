"""The alarms on the function's own metrics: the function writes them as the alarms look for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.deploy.habits import of_type
from tests.deploy.stack import template
from tests.factories import filled, make_model, ready_update
from tests.test_lambda_handler import invoke, scheduled

NAMESPACE = "FederatedAggregation"

ALARMS = {
    alarm["MetricName"]: alarm
    for _, alarm in of_type(template(), "AWS::CloudWatch::Alarm")
    if alarm["Namespace"] == NAMESPACE
}


def fail_a_round(cloud: Cloud) -> None:
    """Run a round that may not write its result."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    s3 = cloud.client("s3")
    denied = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{cloud.bucket}/aggregates/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    s3.put_bucket_policy(Bucket=cloud.bucket, Policy=policy)
    try:
        with pytest.raises(Exception, match=r"Forbidden|AccessDenied"):
            invoke(scheduled(model))
    finally:
        s3.delete_bucket_policy(Bucket=cloud.bucket)


def ask_a_paused_model(_: Cloud) -> None:
    """Ask for a round of a model that is paused."""
    model: FederatedModel = make_model(1, allow_aggregation=False)
    ready_update(model, 1, filled(1.0))
    invoke(scheduled(model))


CAUSES: dict[str, Callable[[Cloud], None]] = {
    "RoundsFailed": fail_a_round,
    "ModelsPaused": ask_a_paused_model,
}


def written_metrics(output: str) -> dict[str, list[list[str]]]:
    """The metrics in embedded metric format among log lines, with the dimensions of each."""
    lines = [json.loads(line) for line in output.splitlines() if '"_aws"' in line]
    return {
        metric["Name"]: one["Dimensions"]
        for line in lines
        for one in line["_aws"]["CloudWatchMetrics"]
        for metric in one["Metrics"]
    }


def test_each_alarm_has_a_cause_here() -> None:
    """No alarm on the function's own metrics is left untried below."""
    assert ALARMS.keys() == CAUSES.keys()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("metric", CAUSES)
def test_the_function_sets_off_the_alarm(
    metric: str, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the alarm is about makes the function write that metric with the alarm's dimensions, and no
    others: CloudWatch adds nothing up over a dimension."""
    CAUSES[metric](cloud)
    dimensions: list[dict[str, Any]] = ALARMS[metric]["Dimensions"]
    written = written_metrics(capsys.readouterr().out)
    assert written[metric] == [[one["Name"] for one in dimensions]]


def test_the_alarms_look_where_the_function_writes() -> None:
    """Namespace and service are the ones that the template gives the function."""
    function = template()["Resources"]["AggregatorFunction"]["Properties"]
    variables = function["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == NAMESPACE
    for alarm in ALARMS.values():
        assert alarm["Dimensions"] == [
            {"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}
        ]
