"""docs/deploy.md keeps up with the template."""

from __future__ import annotations

import re

import pytest

from tests.deploy.habits import of_type
from tests.deploy.stack import ROOT, presets, template

TEXT = (ROOT / "docs" / "deploy.md").read_text()


@pytest.mark.parametrize("alarm", dict(of_type(template(), "AWS::CloudWatch::Alarm")))
def test_each_alarm_is_explained(alarm: str) -> None:
    """The section that an alarm's description names is there."""
    description = template()["Resources"][alarm]["Properties"]["AlarmDescription"]
    (section,) = re.findall(r'See "(.+)" in docs/deploy.md', description)
    assert f"\n### {section}\n" in TEXT


def test_what_the_documentation_names_exists() -> None:
    """Each output, size and event that is used in the documentation is there to be used."""
    assert set(re.findall(r"\$\(output (\w+)", TEXT)) <= template()["Outputs"].keys()
    assert set(re.findall(r"--config-env (\w+)", TEXT)) <= presets().keys()
    events = {path.name for path in (ROOT / "events").iterdir()}
    assert set(re.findall(r"`([a-z0-9-]+\.json)`", TEXT)) - {"local-variables.json"} == events


@pytest.mark.parametrize("parameter", sorted(set(re.findall(r"`([A-Z][a-zA-Z]+[a-z])`", TEXT))))
def test_parameters_are_named_right(parameter: str) -> None:
    """What looks like a parameter or output is one."""
    known = template()["Parameters"].keys() | template()["Outputs"].keys()
    assert parameter in known
