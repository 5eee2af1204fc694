"""The dashboard shows metrics that the function writes."""

from __future__ import annotations

import ast
import re

from tests.deploy.stack import ROOT, template


def test_the_dashboard_shows_what_the_function_writes() -> None:
    """Every metric of the function's own on the dashboard is one that its code adds."""
    body = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0]
    shown = set(re.findall(r'"FederatedAggregation", "(\w+)"', body))
    calls = ast.walk(ast.parse((ROOT / "connectors" / "telemetry.py").read_text()))
    written = {
        call.args[0].value
        for call in calls
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_metric"
        and isinstance(call.args[0], ast.Constant)
    }
    assert shown - written == set()
    assert {"RoundsPublished", "UpdatesUsed", "UpdatesRejected", "BytesRead"} <= shown
