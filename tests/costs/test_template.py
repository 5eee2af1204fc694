"""The estimate agrees with the template, and `docs/cost.md` quotes what the code computes."""

from __future__ import annotations

from typing import Any

import pytest

from costs import stack
from costs.estimate import KEPT_AFTER_DELETION_DAYS
from costs.parameters import PARAMETERS, stack_with
from costs.prices import US_EAST_1
from costs.report import DEFAULT_MAX_UPDATE_BYTES
from costs.stack import Stack
from tests.costs import page
from tests.deploy.practices import of_type
from tests.deploy.stack import nested, template

PARAMETER = template()["Parameters"]


def test_the_estimate_has_the_defaults_of_the_template() -> None:
    """Each parameter on which costs depend has the template's default."""
    defaults = {name: str(PARAMETER[name]["Default"]) for name in PARAMETERS}
    assert stack_with(defaults) == Stack()
    assert PARAMETER["MaxUpdateBytes"]["Default"] == DEFAULT_MAX_UPDATE_BYTES


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "MinValue" in PARAMETER[name]])
def test_a_parameter_has_the_limits_of_the_template(name: str) -> None:
    """Exactly the values that the template refuses are refused."""
    low, high = PARAMETER[name]["MinValue"], PARAMETER[name]["MaxValue"]
    for accepted in (low, high):
        stack_with({name: str(accepted)})
    for refused in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{name}={refused}: expected {low} to {high}"):
            stack_with({name: str(refused)})


@pytest.mark.parametrize(
    "name", [name for name in PARAMETERS if "AllowedValues" in PARAMETER[name]]
)
def test_a_parameter_has_the_values_of_the_template(name: str) -> None:
    """Each value that the template allows is accepted, and another is refused."""
    proxy = {"DatabaseMinCapacity": "0.5"} if name == "DatabaseProxy" else {}
    for value in PARAMETER[name]["AllowedValues"]:
        stack_with({name: str(value)} | proxy)
    with pytest.raises(ValueError, match=f"{name}=7: expected "):
        stack_with({name: "7"} | proxy)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"SweepSchedule": "cron(0 12 * * ? *)"}, "expected a rate such as"),
        ({"DatabaseMinCapacity": "nan"}, "expected one of 0, 0.5, 1"),
        ({"DatabaseProxy": "on"}, "DatabaseMinCapacity above 0"),
        ({"MaxConcurrency": "5"}, "costs do not depend on"),
    ],
)
def test_an_impossible_stack_is_refused(parameters: dict[str, str], message: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=message):
        stack_with(parameters)


def test_all_hourly_costs_are_counted() -> None:
    """The estimate includes every alarm, endpoint, key, secret, dashboard and server of the templates."""
    files = ("template.yaml", *nested().values())
    made = [each for file in files for each in template(file)["Resources"].values()]
    kinds = [resource["Type"] for resource in made]
    assert kinds.count("AWS::CloudWatch::Alarm") == Stack(max_functions=2).alarms
    assert kinds.count("AWS::CloudWatch::Dashboard") == 1  # of three that are free
    assert kinds.count("AWS::RDS::DBInstance") == kinds.count("AWS::RDS::DBProxy") == 1
    keys = [resource for resource in made if resource["Type"] == "AWS::KMS::Key"]
    assert [key["Condition"] for key in keys] == ["HasPrivacy"]
    assert Stack(privacy=True).standing(US_EAST_1)["key of private models"] == US_EAST_1.key_month
    assert not {"AWS::SecretsManager::Secret", "AWS::EC2::NatGateway"} & set(kinds)
    endpoints = [each for each in made if each["Type"] == "AWS::EC2::VPCEndpoint"]
    paid = [each for each in endpoints if each["Properties"]["VpcEndpointType"] == "Interface"]
    assert {each["Condition"] for each in paid} == {
        "CreatesQueueEndpoint",
        "CreatesEventEndpoint",
        "CreatesTraceEndpoint",
        "CreatesStateMachineEndpoint",
    }
    for zones in (0, 1, 2):
        everything = Stack(endpoint_zones=zones, event_bus=True, tracing=True, max_functions=2)
        assert everything.endpoints == zones * len(paid)


def test_times_agree_with_the_template() -> None:
    """Sessions, pauses and deleted objects last as long as in the template."""
    for timeout, row in template()["Mappings"]["Timeout"].items():
        seconds = int(timeout) + stack.IDLE_SESSION_SLACK_SECONDS
        assert row["IdleSession"] == 1000 * seconds
        lingers = stack.RESUME_SECONDS + seconds + 300
        assert Stack(timeout_seconds=int(timeout)).active_hours_after_call * 3600 == pytest.approx(
            lingers
        )
    ((_, bucket),) = of_type(template(), "AWS::S3::Bucket")
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    replaced: Any = rules["replaced-versions"]["NoncurrentVersionExpiration"]
    assert replaced["NoncurrentDays"] == KEPT_AFTER_DELETION_DAYS


def test_a_database_that_rounds_keep_awake_is_not_woken_by_sweeps() -> None:
    """The time for which the database is active is counted once."""
    plain = Stack(sweep_hours=0.25)
    assert plain.sweep_acu_hours() == pytest.approx(0.5 * 730 * 11.25 / 15)
    assert plain.sweep_acu_hours(730) == 0
    assert Stack(database_min_capacity=0.5).sweep_acu_hours() == 0
    assert (
        Stack(aurora=False).idle(US_EAST_1)["Aurora, storage (1 GB) and the master user's secret"]
        == 0
    )


@pytest.mark.parametrize("name", page.BLOCKS)
def test_the_page_quotes_what_the_code_computes(name: str) -> None:
    """Each block of figures in docs/cost.md is what `python -m tests.costs.page` writes."""
    assert page.written(page.PAGE.read_text(), name) == page.BLOCKS[name]()
