"""The dashboard shows metrics that the function writes."""

from __future__ import annotations

import ast
import re

from tests.deploy.stack import ROOT, template


def test_the_dashboard_shows_what_the_function_writes() -> None:
    """Every metric of the project on the dashboard is named in the code that adds metrics."""
    body = template("infra/observability.yaml")["Resources"]["Dashboard"]["Properties"]
    shown = set(re.findall(r'"FederatedAggregation", "(\w+)"', body["DashboardBody"]["Fn::Sub"][0]))
    source = (ROOT / "connectors" / "runtime" / "telemetry.py").read_text()
    named = {each.value for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Constant)}
    assert shown - named == set()
    assert {"RoundsPublished", "UpdatesUsed", "UpdatesRejected", "BytesRead"} <= shown
