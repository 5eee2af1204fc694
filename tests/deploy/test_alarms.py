"""The alarms on the function's own metrics: the function writes the metrics that they watch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.deploy.practices import of_type
from tests.deploy.stack import template
from tests.factories import filled, make_model, ready_update
from tests.test_lambda_handler import invoke, scheduled

NAMESPACE = "FederatedAggregation"

ALARMS = {
    alarm["MetricName"]: alarm
    for _, alarm in of_type(template("infra/observability.yaml"), "AWS::CloudWatch::Alarm")
    if alarm["Namespace"] == NAMESPACE
}


def fail_a_round(cloud: Cloud) -> None:
    """Run a round that is not allowed to write its result."""
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


def request_a_round_of_a_paused_model(_: Cloud) -> None:
    """Request a round of a paused model."""
    model: FederatedModel = make_model(1, allow_aggregation=False)
    ready_update(model, 1, filled(1.0))
    invoke(scheduled(model))


CAUSES: dict[str, Callable[[Cloud], None]] = {
    "RoundsFailed": fail_a_round,
    "ModelsPaused": request_a_round_of_a_paused_model,
}


def written_metrics(output: str) -> dict[str, list[list[str]]]:
    """Return the dimensions of each metric in embedded metric format among log lines."""
    lines = [json.loads(line) for line in output.splitlines() if '"_aws"' in line]
    return {
        metric["Name"]: one["Dimensions"]
        for line in lines
        for one in line["_aws"]["CloudWatchMetrics"]
        for metric in one["Metrics"]
    }


def test_each_alarm_is_triggered_below() -> None:
    """Every alarm on the function's own metrics is tested below."""
    assert ALARMS.keys() == CAUSES.keys()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("metric", CAUSES)
def test_the_function_triggers_the_alarm(
    metric: str, cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """The function writes the metric with exactly the dimensions of the alarm, since CloudWatch does not
    aggregate over dimensions."""
    CAUSES[metric](cloud)
    dimensions: list[dict[str, Any]] = ALARMS[metric]["Dimensions"]
    written = written_metrics(capsys.readouterr().out)
    assert written[metric] == [[one["Name"] for one in dimensions]]


def test_the_alarms_watch_the_service_of_the_function() -> None:
    """Namespace and service are those that the template gives the function."""
    given = template()["Resources"]["Observability"]["Properties"]["Parameters"]
    function = template()["Resources"]["AggregatorFunction"]["Properties"]
    variables = function["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == NAMESPACE
    for alarm in ALARMS.values():
        assert alarm["Dimensions"] == [{"Name": "service", "Value": {"Ref": "Service"}}]
    assert given["Service"] == variables["POWERTOOLS_SERVICE_NAME"]
