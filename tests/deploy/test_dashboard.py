"""The dashboard shows metrics that the function writes."""

from __future__ import annotations

import ast
import re

from tests.deploy.stack import ROOT, template


def test_the_dashboard_shows_what_the_function_writes() -> None:
    """Every metric of the project on the dashboard is one that the code adds."""
    body = template("infra/observability.yaml")["Resources"]["Dashboard"]["Properties"]
    shown = set(re.findall(r'"FederatedAggregation", "(\w+)"', body["DashboardBody"]["Fn::Sub"]))
    calls = ast.walk(ast.parse((ROOT / "connectors" / "runtime" / "telemetry.py").read_text()))
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
